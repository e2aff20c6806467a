//! Chat templates.
//!
//! What each bound says is tested beside `src/model/template.rs`; here, that the program ends with it.

use crate::hostile::{Case, check_all};
use crate::support::Project;

fn template(project: &Project, source: &str) {
    project.write("model/chat_template.jinja", source);
    project.write(
        "scenarios/says.toml",
        &crate::support::TARGET
            .replace("prompt =", "messages =")
            .replace("\"hello there\"", "[{ role = \"user\", content = \"hello there\" }]"),
    );
}

const CASES: &[Case] = &[
    Case {
        name: "a namespace that holds itself",
        prepare: |p| template(p, "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}"),
        command: &["run"],
        code: 1,
        words: &["chat_template.jinja: chat template, line 1: puts a namespace into another value"],
    },
    Case {
        name: "values nested 100 000 deep",
        prepare: |p| {
            template(
                p,
                "{% set ns = namespace(s=1) %}\n{% for i in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}",
            );
        },
        command: &["run"],
        code: 1,
        words: &["chat_template.jinja: chat template, line 2: nests values more than 64 deep"],
    },
    Case {
        name: "a chain of 50 000 additions",
        prepare: |p| template(p, &format!("{{{{ 1{} }}}}", "+1".repeat(50_000))),
        command: &["run"],
        code: 1,
        words: &["chat_template.jinja: chat template, line 1: has an expression that is too long"],
    },
    Case {
        name: "20 000 elif",
        prepare: |p| template(p, &format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(20_000))),
        command: &["run"],
        code: 1,
        words: &["chat_template.jinja: chat template, line 1: has too many elif"],
    },
    Case {
        name: "a list doubled 60 times",
        prepare: |p| {
            template(
                p,
                "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s|length }}",
            );
        },
        command: &["run"],
        code: 1,
        words: &["chat_template.jinja: chat template, line 1: makes too large a value"],
    },
    Case {
        name: "a width of 2 GB",
        prepare: |p| template(p, "{{ '{:>2000000000}'.format(1) }}"),
        command: &["run"],
        code: 1,
        words: &["chat_template.jinja: chat template, line 1: formats to a width of 2000000000"],
    },
    Case {
        name: "an indent of 2 GB",
        prepare: |p| template(p, "{{ [1] | tojson(indent=2000000000) }}"),
        command: &["run"],
        code: 1,
        words: &["chat_template.jinja: chat template, line 1: writes JSON with an indent of 2000000000"],
    },
    Case {
        name: "a template that leaves out what the user says",
        prepare: |p| template(p, "{% for m in messages if m.role == 'assistant' %}{{ m.content }}{% endfor %}"),
        command: &["run"],
        code: 1,
        words: &["chat_template.jinja", "does not write the user's message", "[model] chat_template"],
    },
];

#[test]
fn each_ends_with_one_clear_error() {
    check_all(CASES);
}
