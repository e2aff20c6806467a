//! Tags of chat templates that leaked into an answer.

use std::sync::LazyLock;

use regex::Regex;

use crate::shown::quote;

/// Tags as the known templates write them: `<|im_start|>`, DeepSeek's full-width bars, Llama 2 and Mistral, Gemma, sentence
/// marks, and Alpaca's headings.
static TAG: LazyLock<Regex> = LazyLock::new(|| {
    let tags = [
        r"<\|[^|<>\n]{1,64}\|>",
        r"<｜[^｜<>\n]{1,64}｜>",
        r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]",
        r"<</?SYS>>",
        r"</?(?:start|end)_of_turn>",
        r"</?s>",
        r"<(?:bos|eos|pad|unk|mask)>",
        r"(?m:^### (?:Instruction|Input|Response):)",
    ];
    Regex::new(&tags.join("|")).expect("a valid pattern")
});

/// The first tag in `text`, if there is one. Thoughts that are closed are not a leak; nor is a `</think>` whose opening is
/// in the template's own header.
pub(crate) fn leaked(text: &str) -> Option<String> {
    if let Some(tag) = TAG.find(text) {
        return Some(format!("found {}", quote(tag.as_str())));
    }
    let open = text.rfind("<think>")?;
    (!text[open..].contains("</think>")).then(|| "found \"<think>\" left open".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_the_known_templates_are_found() {
        for (text, tag) in [
            ("Hi<|im_end|>", "<|im_end|>"),
            ("<|start_header_id|>user", "<|start_header_id|>"),
            ("a<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
            ("[INST] x", "[INST]"),
            ("x [/INST]", "[/INST]"),
            ("<<SYS>>", "<<SYS>>"),
            ("<start_of_turn>model", "<start_of_turn>"),
            ("bye</s>", "</s>"),
            ("a\n### Response: b", "### Response:"),
        ] {
            assert_eq!(leaked(text), Some(format!("found {tag:?}")), "{text}");
        }
    }

    #[test]
    fn text_that_only_looks_like_a_tag_is_let_be() {
        for text in ["a <|> b", "if a < b || c > d", "<p>x</p>", "[1] and [INSTALL]", "x | y > z", "<script>"] {
            assert_eq!(leaked(text), None, "{text}");
        }
    }

    #[test]
    fn thoughts_must_be_closed() {
        assert_eq!(leaked("<think>hm</think> 4"), None);
        assert_eq!(leaked("hm</think> 4"), None);
        assert!(leaked("<think>hm").is_some());
        assert!(leaked("<think>a</think><think>b").is_some());
    }
}
