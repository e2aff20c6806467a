//! Families and types of tensors that llama.cpp computes with and candle does not: trained and asked all the same.
use std::ffi::CString;
use std::path::Path;

use crate::support::{MANIFEST, Project, Ran, fixture};
use finetest::RunRecord;
use llama_cpp_sys_2 as sys;
use serde_json::Value;

/// Steps that change the adapter visibly.
const RECIPE: &str = "eval_steps = 2\nnum_epochs = 4\nadapter_dtype = \"f32\"\n";

/// A project of a GGUF file that trains its adapter.
fn trains(model: &Path) -> Project {
    let project = Project::new();
    std::fs::copy(model, project.path("m.gguf")).expect("a copy");
    let manifest =
        MANIFEST.replace("source = \"model\"", "source = \"m.gguf\"").replace("max_steps = 4", "max_steps = 8");
    project.write("finetest.toml", &format!("{manifest}{RECIPE}"));
    project
}

/// A project of a GGUF file and an adapter that is there.
fn asks(model: &Path, adapter: &str) -> Project {
    let project = trains(model);
    let manifest = project.read("finetest.toml");
    let model = manifest.split("[data]").next().expect("a head");
    project.write("finetest.toml", &format!("{model}[adapter]\npath = \"{adapter}\"\n"));
    project
}

fn family(name: &str) -> std::path::PathBuf {
    fixture(&format!("llama_cpp_only/{name}/model.gguf"))
}

fn on_llama_cpp(project: &Project, command: &str) -> Ran {
    project.run(&[command, "--backend", "llama-cpp"])
}

fn record(project: &Project) -> RunRecord {
    // The tiny models answer rubbish: one of the cases fails, and the gate with it.
    let ran = project.run(&["run", "--json", "--backend", "llama-cpp"]).expect(100);
    let json: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    serde_json::from_value(json["run"].clone()).expect("a run")
}

/// Losses, norms of gradients and validation losses.
fn log(project: &Project) -> Vec<f64> {
    let state: Value = serde_json::from_str(&project.read("adapters/tiny/trainer_state.json")).expect("json");
    let entries = state["log_history"].as_array().expect("a log").clone();
    let keys = ["loss", "grad_norm", "eval_loss"];
    entries.iter().flat_map(|entry| keys.iter().filter_map(|key| entry[key].as_f64())).collect()
}

#[expect(unsafe_code, reason = "called by llama.cpp")]
unsafe extern "C" fn quiet(_: sys::ggml_log_level, _: *const std::ffi::c_char, _: *mut std::ffi::c_void) {}

/// `from` in another type of tensors, by llama.cpp's own quantiser.
#[expect(unsafe_code, reason = "llama-cpp-2 has no quantiser")]
fn quantise(from: &Path, to: &Path, kind: sys::llama_ftype) {
    let [from, to] = [from, to].map(|path| CString::new(path.to_str().expect("UTF-8")).expect("no zero"));
    // SAFETY: both are C strings, the parameters are llama.cpp's own defaults but for three plain values, and `quiet` reads nothing.
    let status = unsafe {
        sys::llama_log_set(Some(quiet), std::ptr::null_mut());
        let mut params = sys::llama_model_quantize_default_params();
        (params.nthread, params.ftype, params.allow_requantize) = (1, kind, true);
        sys::llama_model_quantize(from.as_ptr(), to.as_ptr(), &raw const params)
    };
    assert_eq!(status, 0);
}

/// Each step is PEFT's (see `src/backend/llama_cpp/objective/parity.rs`); here it is the whole way, from the data to a report.
#[test]
fn families_that_candle_has_not_are_trained_and_asked() {
    for name in ["granite", "olmo2", "smollm3"] {
        let project = trains(&family(name));
        on_llama_cpp(&project, "train").expect(0);
        let losses = log(&project);
        assert!(losses.len() > 16 && losses[losses.len() - 1].is_finite(), "{name}: {losses:?}");
        let first_and_last = (losses[0], losses[losses.len() - 1]);
        assert!(first_and_last.1 < first_and_last.0, "{name}: it learns: {losses:?}");
        for file in ["adapter_model.safetensors", "adapter_config.json", "adapter.gguf"] {
            assert!(project.path(&format!("adapters/tiny/{file}")).is_file(), "{name}: {file}");
        }
        let run = record(&project);
        assert_eq!(run.model.family, name);
        let proof = run.proof["tuned"].clone();
        assert!(proof.adapter_effect > 0.0 && proof.base_difference < 1e-6, "{name}: {proof:?}");
    }
}

/// PEFT's directory and what llama.cpp's converter made of it are one adapter.
#[test]
fn both_forms_of_an_adapter_give_the_same_answers() {
    let answers = |project: &Project| -> Vec<_> {
        let run = record(project);
        assert!(run.proof.get("tuned").is_some_and(|proof| proof.adapter_effect > 0.1), "{:?}", run.proof);
        let tokens = run.cases().flat_map(|(_, case)| case.answers.values().cloned().collect::<Vec<_>>());
        tokens.map(|answer| answer.completion().expect("an answer").tokens.clone()).collect()
    };
    let peft = asks(&family("phi3"), "given");
    std::fs::create_dir_all(peft.path("given")).expect("a directory");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let from = fixture(&format!("llama_cpp_only/phi3/adapter/{file}"));
        std::fs::copy(from, peft.path(&format!("given/{file}"))).expect("a copy");
    }
    let gguf = asks(&family("phi3"), "given.gguf");
    std::fs::copy(fixture("llama_cpp_only/phi3/adapter.gguf"), gguf.path("given.gguf")).expect("a copy");
    let (ours, theirs) = (answers(&peft), answers(&gguf));
    assert!(!ours.is_empty() && ours == theirs);

    let project = trains(&family("phi3"));
    let words = ["family phi3", "llama.cpp has no backward for SwiGLU of a layer that is gate and up together"];
    on_llama_cpp(&project, "train").fails(1, &words);
}

/// Granite's file under the name of MiniCPM, whose graph llama.cpp has too: a family that no table here has.
#[test]
fn a_family_of_which_only_llama_cpp_knows_is_asked_with_a_gguf_adapter() {
    let directory = tempfile::tempdir().expect("a directory");
    let renamed = |from: &str, to: &str| {
        let mut bytes = std::fs::read(fixture(&format!("llama_cpp_only/granite/{from}"))).expect("a file");
        let places: Vec<usize> = (0..bytes.len() - 7).filter(|at| &bytes[*at..at + 7] == b"granite").collect();
        places.into_iter().for_each(|at| bytes[at..at + 7].copy_from_slice(b"minicpm"));
        let path = directory.path().join(to);
        std::fs::write(&path, bytes).expect("a file");
        path
    };
    let (model, adapter) = (renamed("model.gguf", "model.gguf"), renamed("adapter.gguf", "adapter.gguf"));
    let project = asks(&model, "given.gguf");
    std::fs::copy(&adapter, project.path("given.gguf")).expect("a copy");
    let run = record(&project);
    assert_eq!(run.model.family, "minicpm");
    let proof = run.proof["tuned"].clone();
    assert!(proof.adapter_effect > 0.1 && proof.adapted_modules == 21, "{proof:?}");
    // Half of its effect, by a file of our own.
    project.append("finetest.toml", "scale = 0.5\n");
    let halved = record(&project).proof["tuned"].clone();
    assert!(halved.adapter_effect < 0.9 * proof.adapter_effect, "{halved:?}");

    let project = asks(&model, "given");
    std::fs::create_dir_all(project.path("given")).expect("a directory");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let from = fixture(&format!("llama_cpp_only/granite/adapter/{file}"));
        std::fs::copy(from, project.path(&format!("given/{file}"))).expect("a copy");
    }
    let words = ["given: cannot be put on a base of the family `minicpm`", "granite", "convert_lora_to_gguf.py"];
    on_llama_cpp(&project, "run").fails(1, &words);
    let words = ["is of the family minicpm", "it trains llama, qwen2, qwen3, granite, olmo2, smollm3"];
    on_llama_cpp(&trains(&model), "train").fails(1, &words);
}

/// The same weights in f32 are what candle trains on: IQ4_NL is none of its types.
#[test]
fn types_that_candle_has_not_are_trained_as_candle_trains_their_values() {
    let directory = tempfile::tempdir().expect("a directory");
    let [small, wide] = ["small.gguf", "wide.gguf"].map(|name| directory.path().join(name));
    quantise(&fixture("llama/model.gguf"), &small, sys::LLAMA_FTYPE_MOSTLY_IQ4_NL);
    quantise(&small, &wide, sys::LLAMA_FTYPE_ALL_F32);
    let (project, oracle) = (trains(&small), trains(&wide));
    on_llama_cpp(&project, "train").expect(0);
    oracle.run(&["train", "--backend", "candle"]).expect(0);
    let (got, expected) = (log(&project), log(&oracle));
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() < 1e-3 * expected.abs(), "{got}, candle's is {expected}");
    }
    let run = record(&project);
    assert!(run.proof["tuned"].clone().adapter_effect > 0.0);
    let words = ["m.gguf", "is in IQ4_NL, a type that candle does not read", "--backend llama-cpp"];
    project.run(&["run", "--backend", "candle"]).fails(1, &words);
}
