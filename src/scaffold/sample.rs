//! A small task with data of its own, for a folder that has neither an adapter nor data: is a review positive or negative, in one word.

use serde_json::json;

use super::{NewFile, quoted};

/// Where its examples go.
pub(super) const TRAIN: &str = "data/train.jsonl";

/// What is learnt.
const POSITIVE: [&str; 20] = [
    "The soup was warm and full of flavor.",
    "I loved every minute of this film.",
    "The staff were kind and helped us at once.",
    "A wonderful book, I could not put it down.",
    "The battery lasts for days.",
    "Our room was clean and quiet.",
    "Best coffee in town.",
    "The jacket fits perfectly and looks great.",
    "Fast delivery and everything worked.",
    "The concert was a joy from start to end.",
    "My children play with it every day.",
    "The view from the terrace is beautiful.",
    "The app is simple and quick.",
    "Fresh bread every morning, delicious.",
    "The teacher explains things clearly.",
    "It was easy to build and feels solid.",
    "A friendly guide and a great tour.",
    "The sound of these speakers is excellent.",
    "I would buy this lamp again.",
    "The garden is lovely in spring.",
];
const NEGATIVE: [&str; 20] = [
    "The soup was cold and had no taste.",
    "I was bored and left the film early.",
    "The staff were rude and ignored us.",
    "A dull book, I gave up after a chapter.",
    "The battery is empty after an hour.",
    "Our room was dirty and loud.",
    "The worst coffee I have had.",
    "The jacket is too small and badly made.",
    "It came late and was broken.",
    "The concert was a waste of money.",
    "The toy fell apart on the first day.",
    "The view is only a gray wall.",
    "The app is slow and crashes.",
    "The bread was old and hard.",
    "The teacher was never prepared.",
    "Parts were missing and the rest was bent.",
    "The guide was late and the tour was awful.",
    "The sound of these speakers is terrible.",
    "I regret that I bought this lamp.",
    "The garden is full of rubbish.",
];
/// What is asked: none of it is learnt.
const HELD_OUT: [(&str, &str); 8] = [
    ("The pizza was hot and delicious.", "positive"),
    ("The waiter was friendly and fast.", "positive"),
    ("I love this phone, it is great.", "positive"),
    ("A beautiful hotel with a lovely garden.", "positive"),
    ("The pizza was burnt and cold.", "negative"),
    ("The waiter was rude and slow.", "negative"),
    ("I hate this phone, it is broken.", "negative"),
    ("A dirty hotel with a terrible smell.", "negative"),
];

/// The training data: as chats, or as raw text and what follows it.
pub(super) fn data(is_chat: bool) -> NewFile {
    let labelled = POSITIVE.iter().zip(NEGATIVE).flat_map(|(yes, no)| [(*yes, "positive"), (no, "negative")]);
    let line = |(review, label): (&str, &str)| {
        let example = if is_chat {
            json!({ "messages": [{ "role": "user", "content": asked(review) }, { "role": "assistant", "content": label }] })
        } else {
            json!({ "prompt": raw(review), "completion": format!(" {label}") })
        };
        format!("{example}\n")
    };
    NewFile::new(TRAIN, labelled.map(line).collect::<String>())
}

/// The target scenario.
pub(super) fn scenario(is_chat: bool) -> NewFile {
    let mut text = format!(
        "# What the fine-tune is for. These reviews are not in {TRAIN}: ask nothing that the adapter was trained on.\n\
         # Replace this task with your own: this file, {TRAIN}, and [train] in finetest.toml.\n\
         role = \"target\"\n\
         description = \"says in one word whether a review is positive or negative\"\n\
         max_tokens = 8\n\
         tags = [\"starter\"]\n"
    );
    if !is_chat {
        text.push_str("stop = [\"\\n\"]\n");
    }
    for (number, (review, label)) in HELD_OUT.iter().enumerate() {
        let key = if is_chat { "prompt" } else { "text" };
        let asked = if is_chat { asked(review) } else { raw(review) };
        let name = number % 4 + 1;
        let asked = quoted(&asked);
        text.push_str(&format!(
            "\n[[cases]]\nname = \"{label}-{name}\"\n{key} = {asked}\nchecks = [{{ exact = \"{label}\" }}]\n"
        ));
    }
    NewFile::new("scenarios/task.toml", text)
}

fn asked(review: &str) -> String {
    format!("Review: {review}")
}

fn raw(review: &str) -> String {
    format!("Review: {review} Opinion:")
}
