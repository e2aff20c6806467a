use std::path::Path;

use super::*;
use crate::backend::{DriftText, Logits, Measured, OnAnswers, Progress, Question, Scripted};
use crate::compare::DriftSample;
use crate::record::{Aggregate, ChoiceScore, Completion, DriftMethod, Finish, Prompt, RunError, Verdict};

/// Answers one question after another, and fails when it has answered so many; or answers what it was not asked.
struct Failing {
    scripted: Scripted,
    after: usize,
    strange: bool,
}

impl Backend for Failing {
    fn name(&self) -> String {
        "failing".into()
    }

    fn capabilities(&self) -> Capabilities {
        self.scripted.capabilities()
    }

    fn answer(
        &mut self,
        questions: &[Question<'_>],
        on_answers: OnAnswers<'_>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        for (i, answer) in self.scripted.complete(questions, on_progress)?.into_iter().enumerate().take(self.after) {
            on_answers(vec![(if self.strange { i + questions.len() } else { i }, answer)])?;
        }
        if self.strange { Ok(()) } else { Err(Error::failed("the disk of the model is gone")) }
    }
}

fn scenarios(directory: &Path) -> Vec<Scenario> {
    let case = |name: &str| format!("[[cases]]\nname = {name:?}\nprompt = {name:?}\nchecks = [\"not-json\"]\n");
    let file = format!("role = \"control\"\ndescription = \"d\"\n{}{}", case("one"), case("two"));
    std::fs::write(directory.join("s.toml"), file).expect("a file");
    vec![Scenario::load(directory.join("s.toml"), directory).expect("a scenario")]
}

fn inputs(scenarios: &[Scenario]) -> Inputs<'_> {
    let arm = |name: &str| Arm { name: name.into(), fingerprint: name.into(), adapter: None, scale: 1.0 };
    Inputs {
        project: "p".into(),
        made: Made::default(),
        model: ModelInfo::default(),
        arms: vec![arm(BASE), arm(TUNED)],
        scenarios,
        drift_text: None,
        target_drift: true,
        part: None,
        approved: Approved::default(),
    }
}

fn scripted() -> Scripted {
    Scripted::new([(0, "one", "1"), (0, "two", "2"), (1, "one", "3"), (1, "two", "4")])
}

#[test]
fn what_was_answered_before_an_error_is_stored() {
    let directory = tempfile::tempdir().expect("a directory");
    let scenarios = scenarios(directory.path());
    let (inputs, store) = (inputs(&scenarios), Store::new(directory.path().join("store")));
    let mut failing = Failing { scripted: scripted(), after: 3, strange: false };
    let error = execute(&inputs, &mut failing, &store, &mut |_| {}).expect_err("it fails");
    assert!(error.to_string().contains("is gone"), "{error}");
    let run = execute(&inputs, &mut scripted(), &store, &mut |_| {}).expect("a run");
    assert_eq!((run.cost.stored, run.cost.computed), (3, 1));
    let texts: Vec<Option<&str>> = run.cases().flat_map(|(_, case)| [case.text(BASE), case.text(TUNED)]).collect();
    assert_eq!(texts, [Some("1"), Some("3"), Some("2"), Some("4")]);
}

#[test]
fn a_backend_that_answers_something_else_is_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let scenarios = scenarios(directory.path());
    let (inputs, store) = (inputs(&scenarios), Store::new(directory.path().join("store")));
    for (after, says) in [(1, "answered question 4"), (0, "gave 0 answers to 4 questions")] {
        let mut strange = Failing { scripted: scripted(), after, strange: true };
        let error = execute(&inputs, &mut strange, &store, &mut |_| {}).expect_err("it fails");
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// Says the question's number of words, the seed and the turn; measures drift as it is reported it can.
struct Counting {
    can: Capabilities,
    asked: Vec<(usize, String, u64)>,
    /// Texts and arms of each call that measures drift.
    compared: Vec<(usize, Vec<usize>)>,
    failing: Option<&'static str>,
}

impl Counting {
    fn new(can: Capabilities) -> Self {
        Self { can, asked: Vec::new(), compared: Vec::new(), failing: None }
    }
}

impl Backend for Counting {
    fn name(&self) -> String {
        "counting".into()
    }

    fn capabilities(&self) -> Capabilities {
        self.can
    }

    fn answer(
        &mut self,
        questions: &[Question<'_>],
        on_answers: OnAnswers<'_>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        on_progress(Progress::Started { what: "answering", units: questions.len() });
        for (i, question) in questions.iter().enumerate() {
            let Prompt::Messages(messages) = &question.request.prompt else { panic!("messages") };
            let said: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
            let seed = question.request.sampling.seed;
            self.asked.push((question.arm, said.join("/"), seed));
            let answered = match self.failing.filter(|failing| said.last() == Some(failing)) {
                Some(failing) => Err(format!("{failing} took it down")),
                None => Ok(completion(&format!("arm {} seed {seed} turn {}", question.arm, messages.len()))),
            };
            on_answers(vec![(i, answered)])?;
        }
        Ok(())
    }

    fn drift(
        &mut self,
        texts: &[DriftText<'_>],
        (_, others): (usize, &[usize]),
        _: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Vec<Measured<DriftSample>>>> {
        self.compared.push((texts.len(), others.to_vec()));
        let sample = |arm: usize| {
            let (kl, same_top1) = match self.can.logits {
                Logits::None => (Vec::new(), Vec::new()),
                _ => (vec![0.1 * arm as f64; 3], vec![true; 3]),
            };
            Ok(DriftSample { kl, nll_base: vec![1.0; 3], nll_tuned: vec![1.5; 3], same_top1, ..DriftSample::default() })
        };
        Ok(others.iter().map(|arm| texts.iter().map(|_| sample(*arm)).collect()).collect())
    }
}

fn completion(text: &str) -> Completion {
    Completion {
        text: text.into(),
        tokens: vec![1, 2, 3],
        finish: Finish::Stop,
        prompt_tokens: 4,
        choices: vec![ChoiceScore { text: "a".into(), log_likelihood: -1.0, tokens: 1 }],
        near_ties: 0,
    }
}

fn load(directory: &Path, text: &str) -> Vec<Scenario> {
    let text = format!("role = \"control\"\ndescription = \"d\"\n{text}");
    std::fs::write(directory.join("s.toml"), text).expect("a file");
    vec![Scenario::load(directory.join("s.toml"), directory).expect("a scenario")]
}

#[test]
fn each_turn_is_asked_behind_the_arms_own_answers_and_found_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let scenarios = load(
        directory.path(),
        "[[cases]]\nprompt = \"one\"\nchecks = [{ contains = \"arm\" }]\n\
         then = [{ prompt = \"two\" , checks = [{ contains = \"arm 0\" }] }, { prompt = \"three\" }]\n\
         [[cases]]\nprompt = \"alone\"\nchecks = [{ contains = \"arm\" }]\n",
    );
    let (inputs, store) = (inputs(&scenarios), Store::new(directory.path().join("store")));
    let mut backend = Counting::new(Capabilities { seeds: true, ..Capabilities::default() });
    let mut finished = Vec::new();
    let run = execute(&inputs, &mut backend, &store, &mut |event| {
        if let RunEvent::CaseFinished { test, arm, verdict, stored, line, .. } = event {
            finished.push((test, arm, verdict, stored, line));
        }
    });
    let run = run.expect("a run");
    let asked: Vec<&str> =
        backend.asked.iter().filter(|(arm, ..)| *arm == 1).map(|(_, said, _)| said.as_str()).collect();
    let second = "one/arm 1 seed 0 turn 1/two";
    assert_eq!(asked, ["one", "alone", second, &format!("{second}/arm 1 seed 0 turn 3/three")]);
    let case = &run.scenarios[0].cases[0];
    let turns: Vec<&str> = case.answers[TUNED].samples[0].turns.iter().map(|turn| turn.text.as_str()).collect();
    assert_eq!(turns, ["arm 1 seed 0 turn 1", "arm 1 seed 0 turn 3", "arm 1 seed 0 turn 5"]);
    assert_eq!((case.verdict(BASE), case.verdict(TUNED)), (Verdict::Passed, Verdict::Failed));
    assert!(case.failures(TUNED)[0].starts_with("turn 2: contains"), "{:?}", case.failures(TUNED));
    assert_eq!(case.follow_ups, ["two", "three"]);
    let lines: Vec<usize> = finished.iter().map(|(.., line)| *line).collect();
    assert_eq!((lines, finished.iter().any(|(.., stored, _)| *stored)), (vec![7, 7, 3, 3], false));
    assert!(run.cost.cases["control::s::case_1"] > 0.0 && run.cost.cases.len() == 2, "{:?}", run.cost.cases);
    assert!(run.drift.is_empty() && run.proof.is_empty() && run.errors.is_empty());

    let mut again = Counting::new(backend.can);
    let mut stored = 0;
    let second = execute(&inputs, &mut again, &store, &mut |event| {
        stored += usize::from(matches!(event, RunEvent::CaseFinished { stored: true, .. }));
    });
    assert_eq!((again.asked.len(), stored), (0, 4));
    assert_eq!(second.expect("a run").scenarios[0].cases[0].text(TUNED), case.text(TUNED));
}

#[test]
fn a_turn_that_fails_ends_its_sample_and_no_other() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = "[[cases]]\nprompt = \"one\"\nchecks = [{ contains = \"arm\" }]\nthen = [{ prompt = \"two\" }, { prompt = \"three\" }]\n";
    let scenarios = load(directory.path(), text);
    let (inputs, store) = (inputs(&scenarios), Store::new(directory.path().join("store")));
    let mut backend = Counting { failing: Some("two"), ..Counting::new(Capabilities::default()) };
    let run = execute(&inputs, &mut backend, &store, &mut |_| {}).expect("a run");
    let case = &run.scenarios[0].cases[0];
    let sample = &case.answers[TUNED].samples[0];
    assert_eq!((sample.turns.len(), sample.verdict, sample.last()), (1, Verdict::NotEvaluated, None));
    assert_eq!(case.errors().collect::<Vec<_>>(), [(BASE, "two took it down"), (TUNED, "two took it down")]);
    assert!(matches!(&run.all_errors()[0], RunError::Answer { arm, .. } if arm == BASE));
}

#[test]
fn samples_have_their_own_seeds_and_come_to_one_verdict() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = "temperature = 1\nseed = 7\nrepeat = 3\naggregate = { rate = 0.3 }\n\
                [[cases]]\nprompt = \"one\"\nchecks = [{ contains = \"seed 8\" }]\n";
    let scenarios = load(directory.path(), text);
    let (inputs, store) = (inputs(&scenarios), Store::new(directory.path().join("store")));
    let mut backend = Counting::new(Capabilities::default());
    let mut notes = Vec::new();
    let run = execute(&inputs, &mut backend, &store, &mut |event| {
        if let RunEvent::Note { text } = event {
            notes.push(text);
        }
    });
    let run = run.expect("a run");
    let seeds: Vec<u64> = backend.asked.iter().map(|(.., seed)| *seed).collect();
    assert_eq!(seeds, [7, 8, 9, 7, 8, 9]);
    let answer = &run.scenarios[0].cases[0].answers[TUNED];
    assert_eq!((answer.verdict, answer.passed(), answer.samples.len()), (Verdict::Passed, 1, 3));
    assert_eq!(run.scenarios[0].aggregate, Aggregate::Rate(0.3));
    // What is shown is a sample that came to the verdict.
    assert_eq!(run.scenarios[0].cases[0].text(TUNED), Some("arm 1 seed 8 turn 1"));
    assert!(notes[0].contains("takes no seeds"), "{notes:?}");
    let path = directory.path().join("run.json");
    run.save(&path).expect("written");
    assert_eq!(RunRecord::load(&path).expect("read"), run);
}

#[test]
fn every_arm_has_its_own_answers_and_its_own_drift() {
    let directory = tempfile::tempdir().expect("a directory");
    let scenarios = scenarios(directory.path());
    let mut inputs = inputs(&scenarios);
    inputs.arms.push(Arm { name: "half".into(), fingerprint: "half".into(), adapter: None, scale: 0.5 });
    inputs.drift_text = Some(("text.txt".into(), "more".into()));
    let store = Store::new(directory.path().join("store"));
    let mut backend = Counting::new(Capabilities { logits: Logits::Full, ..Capabilities::default() });
    let run = execute(&inputs, &mut backend, &store, &mut |_| {}).expect("a run");
    let texts: Vec<Option<&str>> = [BASE, TUNED, "half"].map(|arm| run.scenarios[0].cases[0].text(arm)).to_vec();
    assert_eq!(texts, [Some("arm 0 seed 0 turn 1"), Some("arm 1 seed 0 turn 1"), Some("arm 2 seed 0 turn 1")]);
    let mean = |arm: &str| run.drift[arm].kl.expect("KL").mean;
    assert!((mean(TUNED) - 0.1).abs() < 1e-9 && (mean("half") - 0.2).abs() < 1e-9);
    let names: Vec<&str> = run.drift["half"].texts.iter().map(|text| text.text.as_str()).collect();
    assert_eq!(names, ["control::s::one", "control::s::two", "text.txt, part 1"]);
    let one = &run.drift["half"].texts[0];
    assert_eq!(one.values, [0.2; 3]);
    let means = one.means.expect("means");
    assert_eq!((means.tokens, means.same_top1, means.nll_change, means.measures), (3, Some(1.0), 0.5, None));
    // All arms at once, and one answer once more.
    assert_eq!(backend.compared, [(3, vec![1, 2]), (1, vec![1, 2])]);
    // What is stored of some arms is not measured again beside another one.
    inputs.arms.push(Arm { name: "more".into(), fingerprint: "more".into(), adapter: None, scale: 2.0 });
    let mut backend = Counting::new(backend.can);
    let more = execute(&inputs, &mut backend, &store, &mut |_| {}).expect("a run");
    assert_eq!(backend.compared, [(3, vec![3]), (1, vec![3])]);
    assert_eq!((&more.drift[TUNED], &more.drift["half"]), (&run.drift[TUNED], &run.drift["half"]));
    assert!((more.drift["more"].kl.expect("KL").mean - 0.3).abs() < 1e-9);
}

#[test]
fn what_a_backend_cannot_do_is_refused_before_it_is_asked_or_measured_otherwise() {
    let directory = tempfile::tempdir().expect("a directory");
    let scored = scenarios(directory.path());
    let store = Store::new(directory.path().join("store"));
    // Likelihoods alone: drift is that of the likelihoods, and says so.
    let mut backend = Counting::new(Capabilities { scores: true, ..Capabilities::default() });
    let run = execute(&inputs(&scored), &mut backend, &store, &mut |_| {}).expect("a run");
    let drift = &run.drift[TUNED];
    assert_eq!((drift.method, drift.kl, drift.nll_change()), (DriftMethod::Nll, None, 0.5));
    let choice = "[[cases]]\nprompt = \"x\"\nchecks = [{ choice = { answer = \"a\", others = [\"b\"] } }]\n";
    let scenarios = load(directory.path(), choice);
    let mut backend = Counting::new(Capabilities::default());
    let error = execute(&inputs(&scenarios), &mut backend, &store, &mut |_| {}).expect_err("no scores");
    assert!(error.to_string().starts_with("s.toml:3: case \"case_1\" has a choice, and counting cannot"), "{error}");
    assert!(backend.asked.is_empty());
}
