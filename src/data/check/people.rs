//! What must not get out, and what nobody wants to hear.

use std::sync::LazyLock;

use regex::Regex;

use super::pieces::quoted;
use super::{Detector, Kind, Seen, Severity};
use crate::text::pattern;

/// Keys and passwords.
pub(super) struct Secret;

static SECRET: LazyLock<Regex> = LazyLock::new(|| {
    let shapes = [
        r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b",
        r"\b(?:gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{40,255}|glpat-[A-Za-z0-9_-]{16,})",
        r"\bsk-(?:ant-|proj-|svcacct-|or-|live-)?[A-Za-z0-9_-]{20,}|\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}",
        r"\bhf_[A-Za-z0-9]{30,}|\bxox[abeoprs]-[A-Za-z0-9-]{10,}|\bAIza[A-Za-z0-9_-]{35}|\bya29\.[A-Za-z0-9_-]{20,}|\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|\bnpm_[A-Za-z0-9]{36}|\bpypi-[A-Za-z0-9_-]{40,}|\bdop_v1_[a-f0-9]{40,}|\bAC[a-f0-9]{32}\b|\bSK[a-f0-9]{32}\b",
        r"-----BEGIN (?:(?:RSA|EC|DSA|OPENSSH|ENCRYPTED|PGP) )?PRIVATE KEY(?: BLOCK)?-----",
        r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
        r"\b[a-z][a-z0-9+]{2,20}://[^\s:/@]{1,64}:[^\s:/@]{3,64}@[^\s/@]+",
    ];
    pattern(&shapes.join("|"))
});
/// What is given a name that says so.
static NAMED_SECRET: LazyLock<Regex> = LazyLock::new(|| {
    let shapes = [
        r#"(?i:(?:пароль|密码|パスワード|\b(?:api[_-]?key|secret(?:[_-]?(?:key|access[_-]?key))?|access[_-]?token|auth[_-]?token|client[_-]?secret|passwor[dt]|passwd|pwd|passphrase|private[_-]?key|account[_-]?key|shared[_-]?access[_-]?key|access[_-]?key(?:[_-]?id)?|contraseña|mot de passe|kennwort|[a-z0-9_]{0,30}(?:_token|_secret|_password|_passwd|_pass|_api_?key))\b)["']?\s*(?:=|:|is)\s*["']?)(?P<value>[^\s"'`,;<>(){}\[\]]{8,})"#,
        r"(?i:\bbearer )(?P<bearer>[A-Za-z0-9_.=-]{20,})",
    ];
    pattern(&shapes.join("|"))
});

impl Detector for Secret {
    fn kind(&self) -> Kind {
        Kind {
            name: "secret",
            severity: Severity::Error,
            sees: "Keys by their shape (AWS, GitHub, OpenAI, Slack, Google, Stripe, private keys, JSON web tokens), passwords in addresses, and a value with letters and digits after `password` or `api_key`.",
            misses: "Secrets without a shape, such as a password of ordinary words.",
        }
    }

    fn find(&self, example: &Seen<'_>) -> Option<String> {
        // Not the secret itself: findings are printed in logs.
        let told = |whole: &str| {
            let start: String = whole.chars().take(12).collect();
            format!("has what looks like a key or password: {}", quoted(&format!("{start}…")))
        };
        let found = |text: &str| {
            let shaped = SECRET.find_iter(text).map(|found| found.as_str()).find(|whole| !is_placeholder(whole));
            let named = || {
                NAMED_SECRET.captures_iter(text).find_map(|found| {
                    let value = found.name("value").or_else(|| found.name("bearer"))?.as_str();
                    let secret = is_random(value) && !is_placeholder(value);
                    secret.then(|| told(found.get(0).map_or("", |whole| whole.as_str())))
                })
            };
            shaped.map(told).or_else(named)
        };
        Seen::first(example.texts(), found)
    }
}

/// Whether a value mixes letters with digits or signs, as made-up words and variable names do not.
fn is_random(value: &str) -> bool {
    let digits = value.chars().any(|c| c.is_ascii_digit());
    let letters = value.chars().any(char::is_alphabetic);
    let signs = value.chars().any(|c| "!@#$%^&*+=?~".contains(c));
    let is_call = value.contains("()")
        || value.contains("://")
        || value.starts_with(['$', '{', '<', '%'])
        || value.contains("env")
        || value.contains("process.");
    letters && (digits || signs) && !is_call
}

fn is_placeholder(value: &str) -> bool {
    static PLACEHOLDER: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)\$\{|\$[a-z_]+|%[a-z_]+%|your|example|placeholder|xxxx|\*\*\*|\.\.\.|…|<[a-z]|changeme|change_me|redacted|dummy|1234567890abcdef|insert|foobar|user:pass(?:word)?@|:password@|:secret@|username:password",
        )
    });
    PLACEHOLDER.is_match(value)
}

/// Data about people.
pub(super) struct Personal;

static MAIL: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)\b(?P<name>[a-z0-9._%+-]{1,64})@(?P<host>[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})*\.[a-z]{2,24})\b")
});
static PHONE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?:^|[^\w.\-/])(?P<number>\+\d{1,3}[ .\-]?\(?\d{1,4}\)?(?:[ .\-]?\d{2,4}){2,5}|\(\d{3}\) ?\d{3}[ .-]\d{4}|\b[2-9]\d{2}[-. ]\d{3}[-. ]\d{4}|\b0\d(?:[ .]\d{2}){4}|\b0\d{2,5}[ /-]\d{5,9}|\b0\d{2,4}[ /-]\d{3,4}[ -]\d{3,5})(?:$|[^\w\-/]|\.\s)",
    )
});
static CARD: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?:^|[^\w.])(?P<card>\d(?:[ -]?\d){12,18})(?:$|[^\w])"));
static IBAN: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\b(?P<iban>[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?)\b"));
static SOCIAL: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:ssn|social security(?: number)?|sozialversicherungsnummer)\b[^\d\n]{0,20}\d{3}[- ]?\d{2}[- ]?\d{4}|(?:^|[^\d-])\d{3}-\d{2}-\d{4}(?:$|[^\d-])",
    )
});
static ADDRESS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\b\d{1,5} (?:[NSEW]\. )?(?:[A-Z][a-z]+ ){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Place|Way|Terrace)\b\.?,? (?:Apt\.? \w+,? )?(?:[A-Z][a-z]+,? ){1,3}(?:[A-Z]{2} )?\d{4,5}|\b\d{1,4} (?:[A-Z][a-z]+ ){1,3}(?:Street|Avenue|Road|Lane|Drive|Close|Gardens|Crescent|Court|Place|Way|Terrace|Row), (?:[A-Z][a-z]+,? ){1,3}[A-Z]{1,2}\d{1,2}[A-Z]? ?\d[A-Z]{2}\b|\b\d{1,4},? (?:bis )?(?:rue|avenue|boulevard|place|allée|chemin|impasse) [^\d\n,]{3,40},? \d{5} \p{Lu}|\b(?:[Cc]alle|[Aa]venida|[Pp]laza) [^\d\n]{3,40},? (?:n\.?º ?)?\d{1,4},? [^\n]{0,12}\b\d{5} \p{Lu}|(?:^|\P{L})[A-ZÄÖÜ][a-zäöüß]+(?:straße|strasse|str\.|weg|allee|gasse) \d{1,4}[a-z]?,? \d{5} [A-ZÄÖÜ]",
    )
});
/// Addresses of offices, and of documentation.
static NOBODY: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)^(?:info|support|contact|admin|sales|help|helpdesk|service|office|noreply|no-reply|webmaster|hello|team|press|jobs|billing|security|abuse|postmaster|root|git|user|username|name|you|your|me|foo|test|someone|alice|bob|john\.doe|jane\.doe|firstname\.lastname|first\.last|kontakt|feedback|orders?|privacy|careers|example|email|mail|recipient|sender|customer)$",
    )
});

impl Detector for Personal {
    fn kind(&self) -> Kind {
        Kind {
            name: "personal",
            severity: Severity::Warning,
            sees: "E-mail addresses, phone numbers, card numbers and IBANs with the right check digits, social security numbers, and street addresses in English and German.",
            misses: "Names, and numbers of other forms. Addresses at example.com and of offices (`support@`) are passed over.",
        }
    }

    fn find(&self, example: &Seen<'_>) -> Option<String> {
        let found = |text: &str| {
            let mail = || {
                // What stands before the host in a server's address is a login.
                let login = |at: usize| {
                    text[..at].ends_with(['/', ':']) && !text[..at].to_ascii_lowercase().ends_with("mailto:")
                };
                let someone = |found: &regex::Captures<'_>| {
                    let at = found.get(0).map_or(0, |whole| whole.start());
                    !NOBODY.is_match(&found["name"]) && !is_example_host(&found["host"]) && !login(at)
                };
                text.contains('@')
                    .then(|| MAIL.captures_iter(text).any(|found| someone(&found)))
                    .filter(|found| *found)
                    .map(|_| "an e-mail address")
            };
            if !text.contains('@') && !text.bytes().any(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let card = || CARD.captures_iter(text).any(|found| is_card(&found["card"])).then_some("a card number");
            let iban = || IBAN.captures_iter(text).any(|found| is_iban(&found["iban"])).then_some("an IBAN");
            let social = || SOCIAL.is_match(text).then_some("a social security number");
            let phone =
                || PHONE.captures_iter(text).any(|found| is_phone(&found["number"])).then_some("a phone number");
            let address = || ADDRESS.is_match(text).then_some("a street address");
            let what = mail().or_else(card).or_else(iban).or_else(social).or_else(phone).or_else(address)?;
            Some(format!("has {what}"))
        };
        Seen::first(example.texts(), found)
    }
}

fn is_example_host(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    [
        "example",
        "test",
        "localhost",
        "domain",
        "invalid",
        "email",
        "company",
        "yourcompany",
        "mycompany",
        "acme",
        "sentry",
        "users.noreply.github",
    ]
    .iter()
    .any(|name| {
        host.split('.').next() == Some(*name)
            || host.ends_with(&format!(".{name}"))
            || host.starts_with(&format!("{name}."))
            || host.contains(&format!(".{name}."))
    })
}

fn digits(text: &str) -> Vec<u32> {
    text.chars().filter_map(|c| c.to_digit(10)).collect()
}

/// Luhn's check, for numbers that begin as cards do and are not one digit again and again.
fn is_card(text: &str) -> bool {
    let digits = digits(text);
    let kind = matches!(digits.len(), 13..=19) && matches!(digits[0], 3..=6) && digits.iter().any(|d| *d != digits[0]);
    let sum: u32 =
        digits.iter().rev().enumerate().map(|(i, d)| if i % 2 == 0 { *d } else { 2 * d / 10 + 2 * d % 10 }).sum();
    kind && sum.is_multiple_of(10)
}

/// ISO 13616: the number with its first four places at the end is 1 modulo 97.
fn is_iban(text: &str) -> bool {
    let letters: Vec<char> = text.chars().filter(|c| *c != ' ').collect();
    if !(15..=34).contains(&letters.len()) {
        return false;
    }
    let rest = letters[4..].iter().chain(&letters[..4]).try_fold(0u32, |rest, c| {
        let value = c.to_digit(36)?;
        Some(if value < 10 { rest * 10 + value } else { rest * 100 + value } % 97)
    });
    rest == Some(1)
}

/// Numbers of 9 to 15 digits that are not one digit again and again.
fn is_phone(text: &str) -> bool {
    let digits = digits(text);
    (9..=15).contains(&digits.len()) && digits.iter().any(|d| *d != digits[0])
}

/// Insults.
pub(super) struct Rude;

static RUDE: LazyLock<Regex> = LazyLock::new(|| {
    let directed = [
        r"\b(?:you(?:'re| are)?|ur|what|such) (?:(?:all|really|just|such|being|are|is|a|an|the|so|fucking|bloody|damn|stupid|complete|total|absolute|utter|pathetic|little|worthless|lazy|dumb) ){0,4}(?:idiots?|morons?|imbeciles?|fools?|losers?|jerks?|nitwits?|twits?|dolts?|blockheads?|dunces?|airheads?|creeps?|pricks?|dick(?:head)?s?|wankers?|tossers?|twats?|cunts?|sluts?|whores?|douche(?:bag)?s?|bozos?|simpletons?|lowlifes?|freaks?|psychos?|crybab(?:y|ies)|cowards?|incompetent|hopeless|dumb|dumber|dense|ignorant|dumbass(?:es)?|asshole?s?|bastards?|scum|trash|garbage|pigs?|clowns?|retards?|cretins?|dimwits?|halfwits?|bitch(?:es)?|pathetic|stupid|worthless|disgusting|braindead|brain-dead|useless)\b",
        r"\b(?:fuck(?:ing)?|go to hell|screw you|piss off|shut (?:the (?:hell|fuck) )?up|drop dead|kill yourself|get lost|bite me)\b",
        r"\b(?:bunch|pack|gang|lot) of (?:\w+ ){0,2}(?:idiots|morons|losers|clowns|fools|jackasses|imbeciles|cretins)\b|\bjackass(?:es)?\b|\b(?:complete|total|absolute|utter|fucking|stupid|bloody) (?:idiots?|morons?|imbeciles?|losers?|jerks?|clowns?|cretins?)\b|\b(?:brain-?dead|worthless|pathetic|stupid) (?:\w+ )?(?:idiots?|morons?|clowns?|losers?|excuse|piece of)\b|\bstop wasting my time\b|\b(?:are|how) (?:you )?(?:really |that |this |so )*(?:stupid|dumb|thick|dense)(?: are you| can you)?\b|\b(?:any|only an?|even an?|every) (?:idiot|moron|fool)\b|\b(?:what a |such a |another )?(?:stupid|dumb|idiotic|moronic) (?:question|idea|people|man|woman|mistake)\b|\byou (?:should be ashamed|make me sick|disgust me|people are (?:all )?(?:stupid|useless))\b|\buse your brain\b|\blearn to (?:read|think)\b|\bcrawl back\b|\bwaste of (?:space|oxygen|skin)\b",
        r"\bshut your (?:mouth|face|trap)\b|\bnobody (?:asked|likes|cares about) you\b|\bi hate you\b|\bgo (?:away|f[*u]ck|die)\b|\bdumb ?ass\b|\bass ?hole\b|\bbullshit\b|\bpiece of (?:shit|crap|garbage|trash)\b",
        r"^(?:idiot|moron|stupid|imbecile|loser|fool)s?\b[!,.]",
        r"\b(?:halt(?:'s| die| deine?)? (?:maul|fresse|klappe)|(?:du|sie|ihr) (?:\w+ ){0,2}(?:idiot(?:en)?|trottel|depp(?:en)?|arschloch|schwachkopf|vollpfosten|dummkopf|versager|penner|hornochse|vollidiot|blödmann|spinner|nichtsnutz|lappen|pfeife|taugenichts)|(?:bist|seid) (?:du|ihr) (?:\w+ ){0,2}(?:blöd|dumm|bescheuert|behindert|doof)|(?:so|was für) ein(?:e|en)? (?:idiot|trottel|depp|vollidiot|versager)\w*|blödmann|volltrottel|vollidiot|dumme (?:kuh|gans|sau)|scheißkerl|verpiss dich|leck mich|arschloch)\b",
        r"\b(?:eres (?:un |una )?(?:idiota|imbécil|estúpid[oa]|inútil|tont[oa]|payaso)|cállate|idiotas?|imbéciles?|estúpid[oa]s?|inútiles|gilipollas|cabrón|mierda|das asco|vete al (?:diablo|infierno)|hijo de puta|pendejo)\b",
        r"\b(?:(?:tu es|t['’]es|vous êtes|espèce d['’e]\s?) ?(?:un |une |des |vraiment )*(?:idiot|imbécile|crétin|abruti|débile|nul|con)(?:e|s|es|ne|nes)?|(?:espèce|bande) d(?:e |\x27|’)\p{L}+|abruti(?:e|s|es)?|crétin(?:e|s|es)?|pauvre (?:type|con|idiot|mec)|tais-toi|ta gueule|ferme-la|va te faire|connard|connasse)\b",
        r"(?:^|\P{L})(?:(?:ты|вы) (?:\p{L}+ ){0,2}(?:идиот\p{L}*|дурак\p{L}*|дура|тупой|тупые|тупица|кретин\p{L}*|придурок|придурки|дебил\p{L}*|болван\p{L}*)|заткнись|отвали|урод(?:ы|ина)?|ничтожество|бестолочь|тупица|дебил\p{L}*|дурак\p{L}*|болван\p{L}*|идиот|кретин|придурок|пошёл ты|пошел ты|иди к чёрту|иди к черту)(?:\P{L}|$)",
    ];
    pattern(&format!("(?im){}", directed.join("|")))
});
static ABOUT_WORDS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:(?:do|does)\b.{1,60}\bmean|meanings?|word|term|translate|translation|etymology|definition of|define|synonyms?|offensive|insults?|insulting|rude|profanity|slur|novel|quot(?:e|es|ed) (?:from|by|of|the|a|an|this)|quotations?|characters? (?:in|of|from|who|says?)|dostoevsky|dostojewski|moderat\w*|toxic\w*|classify|sentiment|polite(?:r|ly)?|rephrase|rewrite|bedeutet|wort|palabra|mot|signifie|significa)\b|слово|значит|роман",
    )
});

impl Detector for Rude {
    fn kind(&self) -> Kind {
        Kind {
            name: "rude",
            severity: Severity::Warning,
            sees: "Insults and curses directed at somebody, in English, German, Spanish, French and Russian, where the prompt does not speak of words.",
            misses: "Contempt without such words, and other languages.",
        }
    }

    fn find(&self, example: &Seen<'_>) -> Option<String> {
        let found = |text: &str| RUDE.find(text).map(|found| format!("has {}", quoted(found.as_str())));
        Seen::first(example.texts(), found)
    }

    fn excused(&self, example: &Seen<'_>) -> bool {
        example.is_about(|text| ABOUT_WORDS.is_match(text))
    }
}
