//! A model's tokenizer with its chat template.

use super::{ChatTemplate, Tokenizer, gguf_metadata};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::sources::{ModelFiles, ModelKind};
use crate::record::{Message, Prompt};

/// A model's tokenizer and template: what turns prompts into tokens and tokens into text.
pub(crate) struct ChatTokenizer {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<ChatTemplate>,
    files: ModelFiles,
}

impl ChatTokenizer {
    /// Is there a tokenizer in a model's files?
    pub(crate) fn is_there(files: &ModelFiles) -> Result<bool> {
        Ok(match &files.kind {
            ModelKind::HuggingFace(found) => found.tokenizer.is_some(),
            ModelKind::Gguf(path) => gguf_metadata(path)?.contains_key("tokenizer.ggml.tokens"),
        })
    }

    /// Reads tokenizer and template of a model.
    pub(crate) fn load(files: &ModelFiles, config: &ModelConfig) -> Result<Self> {
        let mut tokenizer = Tokenizer::load(files)?;
        let template = ChatTemplate::load(files, config.chat_template.as_deref(), &mut tokenizer)?;
        Ok(Self { tokenizer, template, files: files.clone() })
    }

    /// Refuses a tokenizer that is another model's, whose vocabulary has `rows` rows.
    ///
    /// # Errors
    /// It has ids that the model has no row for, or far fewer than the model has rows: those are padded, but by a few.
    pub(crate) fn check_fits(&self, rows: usize) -> Result<()> {
        self.tokenizer.check_ids(rows)?;
        let tokens = self.tokenizer.vocab_size();
        if tokens <= rows && rows - tokens <= rows / 8 {
            return Ok(());
        }
        Err(Error::model(
            &self.files.root,
            format!(
                "the tokenizer has {tokens} tokens, but the model's vocabulary is {rows}: they are not of one model; \
                 put the model's own tokenizer.json and tokenizer_config.json there"
            ),
        ))
    }

    /// The chat template, or an error that says what to do without one.
    pub(crate) fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| ChatTemplate::missing(&self.files))
    }

    /// A prompt's text, as the model reads it.
    pub(crate) fn render(&self, prompt: &Prompt) -> Result<String> {
        match prompt {
            Prompt::Messages(messages) => self.render_messages(messages),
            Prompt::Text(text) => Ok(text.clone()),
        }
    }

    fn render_messages(&self, messages: &[Message]) -> Result<String> {
        self.template()?.render(messages, true)
    }

    /// Tokens of a prompt. Raw text gets the tokenizer's own beginning (a BOS, where it has one).
    pub(crate) fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        let text = self.render(prompt)?;
        match prompt {
            Prompt::Messages(_) => self.tokenizer.encode(&text, true),
            Prompt::Text(_) => self.tokenizer.encode_raw(&text),
        }
    }
}
