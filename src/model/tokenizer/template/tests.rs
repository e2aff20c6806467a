use super::*;

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new("t.jinja", source, Some("<s>".into()), Some("</s>".into())).unwrap()
}

fn chat(turns: &[(&str, &str)]) -> Vec<Message> {
    turns.iter().map(|(role, content)| Message::new(*role, *content)).collect()
}

fn render(source: &str, turns: &[(&str, &str)], prompt: bool) -> String {
    template(source).render(&chat(turns), prompt).unwrap()
}

fn failure(source: &str) -> String {
    template(source).render(&chat(&[("user", "hi")]), false).unwrap_err().to_string()
}

#[test]
fn bos_roles_and_the_header_of_the_answer_are_written() {
    let source = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m.content | trim }}{{ eos_token }}{% endfor %}\
                  {% if add_generation_prompt %}[assistant]{% endif %}";
    let turns = [("system", " be brief "), ("user", "hi")];
    assert_eq!(render(source, &turns, true), "<s>[system]be brief</s>[user]hi</s>[assistant]");
    assert_eq!(render(source, &turns, false), "<s>[system]be brief</s>[user]hi</s>");
}

#[test]
fn a_system_message_can_be_inserted_split_off_and_checked() {
    let source = "{%- if messages[0]['role'] == 'system' %}\n    {%- set system = messages[0]['content'] | trim %}\n\
                  {%- set messages = messages[1:] %}\n{%- else %}\n{%- set system = 'default' %}\n{%- endif %}\n\
                  {{- 'S:' + system + '\\n' }}\n{%- for message in messages %}\n\
                  {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}\
                  {%- endif %}\n{{- message.role ~ ':' ~ message.content.strip().upper() + '\\n' }}\n{%- endfor %}\n";
    assert_eq!(render(source, &[("user", " a ")], false), "S:default\nuser:A\n");
    assert_eq!(
        render(source, &[("system", "s"), ("user", "a"), ("assistant", "b")], false),
        "S:s\nuser:A\nassistant:B\n"
    );
    let error = template(source).render(&chat(&[("user", "a"), ("user", "b")]), false).unwrap_err().to_string();
    assert!(error.starts_with("t.jinja: chat template, line ") && error.ends_with("roles must alternate"), "{error}");
}

#[test]
fn blocks_leave_no_blank_lines() {
    let source = "a\n  {% for m in messages %}\n{{ m.content }}\n  {% endfor %}\nb\n";
    assert_eq!(render(source, &[("user", "1"), ("user", "2")], false), "a\n1\n2\nb");
}

#[test]
fn loops_can_be_left_and_namespaces_changed() {
    let source = "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'assistant' %}{% break %}{% endif %}\
                  {% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}";
    assert_eq!(render(source, &[("user", "1"), ("user", "2"), ("assistant", "x"), ("user", "3")], false), "2");
}

#[test]
fn python_methods_and_tests_work() {
    let source = "{% for m in messages %}{% if m.content is string and 'role' in m and m.get('x') is none and m.x is not defined %}\
                  {{ m.content.split('</think>')[-1].lstrip('\\n') }}{% endif %}{% endfor %}{{ messages[-1].role.startswith('us') }}";
    assert_eq!(
        render(source, &[("user", "a</think>\n\nb")], false),
        "bTrue".replace("True", &render("{{ true }}", &[], false))
    );
}

#[test]
fn missing_values_print_nothing_but_have_no_attributes() {
    assert_eq!(
        render(
            "[{{ nothing }}{% for x in nothing %}{% endfor %}{% if nothing %}{% endif %}{{ messages[0].no }}]",
            &[("user", "")],
            false
        ),
        "[]"
    );
    assert!(failure("{{ nothing.at.all }}").contains("undefined"));
    assert_eq!(render("{% if tools is none and not documents %}ok{% endif %}", &[], false), "ok");
}

#[test]
fn json_is_written_as_python_writes_it() {
    let json = render("{{ messages | tojson }}", &[("user", "<é> \"'& \\u003c\n")], false);
    assert_eq!(json, r#"[{"role": "user", "content": "<é> \"'& \\u003c\n"}]"#);
    assert_eq!(render("{{ [1, {'a': []}] | tojson(indent=2) }}", &[], false), "[\n  1,\n  {\n    \"a\": []\n  }\n]");
}

#[test]
fn the_date_is_always_the_same() {
    assert_eq!(render("{{ strftime_now('%d %b %Y, 100%%') }}", &[], false), "26 Jul 2024, 100%");
    assert!(failure("{{ strftime_now('%Q') }}").contains("%Q"));
}

#[test]
fn generation_tags_are_ignored() {
    let source = "{% for m in messages %}a {%- generation %} {{ m.content }}{% endgeneration -%} b{% endfor %}";
    assert_eq!(render(source, &[("assistant", "x")], false), "a xb");
}

#[test]
fn a_template_cannot_run_for_ever_or_fill_the_memory() {
    let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}";
    assert!(failure(endless).contains("takes too long"), "{}", failure(endless));
    let huge = "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}";
    assert!(failure(huge).contains("makes a text of 524288 bytes"), "{}", failure(huge));
}

#[test]
fn values_nest_and_grow_within_bounds() {
    let deep = "nests values more than 64 deep";
    let (large, spent, recursion) = ("makes too large a value", "takes too long", "recursion limit exceeded");
    let namespace = "puts a namespace into another value";
    let unrolled = |step: &str, times: usize| format!("{{% set a = [1] %}}{}{{{{ a }}}}", step.repeat(times));
    let with = format!(
        "{}{{{{ a|length }}}}{}",
        "{% with a = (a or [1]) + (a or [1]) %}".repeat(60),
        "{% endwith %}".repeat(60)
    );
    for (source, words) in [
        ("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}".to_owned(), namespace),
        ("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns | tojson }}".to_owned(), namespace),
        ("{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns == 1 }}".to_owned(), namespace),
        ("{% set ns = namespace(s=1) %}{% for i in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}".to_owned(), deep),
        ("{% set ns = namespace(s=1) %}{% for i in range(100000) %}{% set ns.s = {1: ns.s} %}{% endfor %}".to_owned(), deep),
        ("{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s | length }}".to_owned(), large),
        ("{% set ns = namespace(s=[1]) %}{% for i in range(99999) %}{% set ns.s = ns.s[0:] %}{% endfor %}".to_owned(), spent),
        ("{% macro f(a) %}{{ f(a + a) }}{% endmacro %}{{ f([1]) }}".to_owned(), large),
        ("{% macro f(a) %}{{ f([a]) }}{% endmacro %}{{ f([1]) }}".to_owned(), recursion),
        ("{% block a %}{{ self.a() }}{% endblock %}".to_owned(), recursion),
        ("{% for a in [[1]] recursive %}{{ loop([[a]]) }}{% endfor %}".to_owned(), deep),
        (unrolled("{% set a = [a] %}", 5000), deep),
        (unrolled("{% set a = [a, a] %}", 60), large),
        (with, large),
        (format!("{{% set s = 'x' * 200000 %}}{{{{ [{}] ~ '' }}}}", "s,".repeat(300)), spent),
    ] {
        let told = failure(&source);
        assert!(told.contains(words), "{words:?} is not in {told:?} of {:.200}", source);
    }
}

#[test]
fn widths_and_indents_are_bounded() {
    for (source, words) in [
        ("{{ '{:>2000000000}'.format(1) }}", "formats to a width of 2000000000"),
        ("{{ '{0:.99999f}'.format(1.5) }}", "formats to a width of 99999"),
        ("{{ ('{0}' * 60000).format(range(4000) | list) }}", "takes too long"),
        ("{{ '%2000000000d' | format(1) }}", "takes too long"),
        ("{{ ('%(a)s' * 50000) | format(a=range(4000) | list) }}", "takes too long"),
        ("{{ [1] | tojson(indent=2000000000) }}", "writes JSON with an indent of 2000000000"),
        ("{{ [1] | tojson(2000000000) }}", "writes JSON with an indent of 2000000000"),
        ("{{ 'a\\nb' | indent(2000000000) }}", "takes too long"),
        ("{{ [1] | batch(2000000000, 1) | length }}", "takes too long"),
        ("{{ [1] | slice(2000000000) | length }}", "takes too long"),
        ("{{ ('x' * 100000).join(range(100000)) }}", "takes too long"),
        ("{{ ('a' * 100000).replace('a', 'b' * 100000) }}", "takes too long"),
        ("{{ ('a' * 200000).strip('b' * 200000) }}", "strips a text of more than 256 characters"),
        ("{{ ('a' * 200000) | trim('b' * 200000) }}", "strips a text of more than 256 characters"),
        ("{{ [[1]] | sum(start=[]) }}", "sums values that are no numbers"),
        ("{{ [1] * 100000000 }}", "multiplies values"),
    ] {
        let told = match ChatTemplate::new("t.jinja", source, None, None) {
            Ok(template) => template.render(&chat(&[("user", "hi")]), false).map(|_| ()),
            Err(error) => Err(error),
        };
        let told = told.unwrap_err().to_string();
        assert!(told.starts_with("t.jinja: chat template, line 1: ") && told.contains(words), "{source}: {told}");
    }
    assert_eq!(render("{{ '{:>5}|{}'.format(1, 'b') }}{{ '%s-%03d' | format('a', 3) }}", &[], false), "    1|ba-003");
    assert_eq!(render("{{ 'xax'.strip('x') }}{{ ' a ' | trim }}{{ [1, 2] | sum }}{{ '-' * 3 }}", &[], false), "aa3---");
}

#[test]
fn long_chats_have_room() {
    let source = "{% set rest = messages[1:] %}{% set ns = namespace(out='', all=[]) %}{% for m in rest %}\
                  {% set ns.out = ns.out ~ m.content %}{% set ns.all = ns.all + [m] %}{% endfor %}{{ ns.out | length }} {{ ns.all | length }}";
    let many: Vec<Message> = (0..500).map(|_| Message::new("user", "x".repeat(100))).collect();
    assert_eq!(template(source).render(&many, false).unwrap(), "49900 499");
    let long = [Message::new("system", "s"), Message::new("user", "é".repeat(2_000_000))];
    let text =
        template("{% for m in messages %}{{ m.content.strip() | trim }}{% endfor %}").render(&long, false).unwrap();
    assert_eq!(text.len(), 4_000_001);
}

#[test]
fn lists_that_are_kept_are_lists() {
    let source = "{% set a = messages[1:] %}{{ a }}{% for k, v in {'x': 1}.items() %}{{ k }}{{ v }}{% endfor %}\
                  {% macro f(a, b=2) %}{{ a }}{{ b }}{{ c is defined }}{% endmacro %}{{ f(1) }}{{ f(1, none) }}\
                  {% with a = 1, b = [2, 3] %}{{ a }}{{ b }}{% endwith %}{% set t, u = 1, 'x' %}{{ t }}{{ u }}";
    let text = render(source, &[("user", "1"), ("user", "2")], false);
    assert_eq!(text, "[{'role': 'user', 'content': '2'}]x112False1NoneFalse1[2, 3]1x");
}

#[test]
fn a_template_reaches_no_file() {
    assert!(failure("{% include '/etc/passwd' %}").contains("chat template"));
}

#[test]
fn what_is_no_jinja_is_an_error_with_its_line() {
    let error = ChatTemplate::new("t.jinja", "a\n{% for %}", None, None).unwrap_err().to_string();
    assert!(error.starts_with("t.jinja: chat template, line 2: "), "{error}");
}

#[test]
fn the_end_of_a_turn_is_what_follows_the_answer() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n\n{% endfor %}";
    assert_eq!(template(source).turn_end().unwrap(), "<end>\n\n");
    for (source, whose) in [("{{ messages[0].content }}", "assistant"), ("{{ messages[-1].content }}", "user")] {
        let error = template(source).turn_end().unwrap_err().to_string();
        assert!(error.contains(&format!("does not write the {whose}'s message")), "{error}");
    }
}

#[test]
fn of_several_templates_the_default_is_meant() {
    let json = serde_json::json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]);
    assert_eq!(named(Path::new("x"), &json).unwrap().unwrap(), "d");
    assert!(
        named(Path::new("x"), &serde_json::json!([])).is_err() && named(Path::new("x"), &serde_json::json!(3)).is_err()
    );
    assert_eq!(named(Path::new("x"), &serde_json::Value::Null).unwrap(), None);
}

#[test]
fn the_fingerprint_changes_with_template_and_tokens() {
    let of = |source: &str, bos: Option<&str>| {
        ChatTemplate::new("p", source, bos.map(str::to_owned), None).unwrap().fingerprint().to_owned()
    };
    assert_ne!(of("a", None), of("b", None));
    assert_ne!(of("a", None), of("a", Some("x")));
    assert_eq!(of("a", Some("x")), of("a", Some("x")));
}
