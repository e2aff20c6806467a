//! The adapter by itself: PEFT's directory, and llama.cpp's GGUF form.

use std::path::Path;

use super::{Difference, Export, Exported, Tuned, earlier};
use crate::config::AdapterDtype;
use crate::error::{Error, Result};
use crate::model::architecture::outline::Outline;
use crate::model::lora::convert::{check_holds, write};
use crate::model::lora::{self, ADAPTER_CONFIG, ADAPTER_WEIGHTS};

impl Export<'_> {
    pub(super) fn peft(&self, out: &Path, tuned: &Tuned) -> Result<Exported> {
        if self.scale != 1.0 {
            return Err(self.no_scale());
        }
        let names = [ADAPTER_WEIGHTS, ADAPTER_CONFIG];
        let files = names.map(|name| out.join(name)).to_vec();
        if lora::is_gguf(self.directory) {
            lora::save(self.adapter, out, AdapterDtype::F32)?;
        } else {
            std::fs::create_dir_all(out).map_err(Error::io(out, "create"))?;
            for (name, to) in names.iter().zip(&files) {
                let from = self.directory.join(name);
                let bytes = crate::files::read_own(&from)?;
                crate::files::write_atomically(to, &bytes)?;
            }
        }
        let read_back = lora::load(out)?.attached(self.decoder, 1.0)?;
        let difference = self.compared(&tuned.expected, self.decoder, Some(&read_back))?;
        Ok(Exported { files, difference })
    }

    pub(super) fn gguf_adapter(&self, out: &Path, tuned: &Tuned) -> Result<Difference> {
        let outline = Outline::of(&self.decoder.spec);
        check_holds(self.adapter, &outline, self.files, self.directory)?;
        write(&tuned.low_rank, &outline, self.directory, out, &earlier::header())?;
        let read_back = lora::open(out, &outline)?.attached(self.decoder, 1.0)?;
        self.compared(&tuned.expected, self.decoder, Some(&read_back))
    }
}
