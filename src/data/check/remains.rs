//! What scraping leaves in a text.

use std::sync::LazyLock;

use regex::Regex;

use super::pieces::quoted;
use super::{Detector, Kind, Seen, Severity};
use crate::text::{pattern, without_code};

/// Mark-up where text was wanted.
pub(super) struct Html;

static TAG: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"(?i)</?(?:div|span|p|br|hr|a|img|table|thead|tbody|tr|td|th|ul|ol|li|h[1-6]|font|center|strong|em|b|i|u|script|style|iframe|section|article|header|footer|nav|button|input|form|label|html|body|head|meta|link|sup|sub|blockquote|pre|code)(?:\s+[a-z-]+(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s>]+))?)*\s*/?>|<!--|<!DOCTYPE|&(?:nbsp|amp|lt|gt|quot|apos|rsquo|lsquo|rdquo|ldquo|ndash|mdash|hellip|copy|eacute|uuml|ouml|auml|szlig|egrave|#\d{2,5}|#x[0-9a-f]{2,5});"#,
    )
});
/// Requests whose answer has mark-up for a reason.
static ABOUT_MARKUP: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:x?html\d?|xml|svg|css|jsx|tsx|dom|markup|mark-up|web ?(?:page|site)|webseite|tags?|react|vue|angular|template|jinja|escape|entit(?:y|ies)|scrap\w*|parse\w*|beautifulsoup|element|javascript|markdown|url|sitemap|rss|anchor|hyperlink)\b",
    )
});

impl Detector for Html {
    fn kind(&self) -> Kind {
        Kind {
            name: "html",
            severity: Severity::Warning,
            sees: "Tags and entities of HTML (`<div>`, `&nbsp;`) outside of code, in examples that do not speak of mark-up.",
            misses: "Mark-up of other languages, and remains in examples that speak of HTML.",
        }
    }

    fn find(&self, example: &Seen<'_>) -> Option<String> {
        let found = |text: &str| {
            if !text.contains(['<', '&']) {
                return None;
            }
            let text = without_code(text);
            TAG.find(&text).map(|found| format!("has {}", quoted(found.as_str())))
        };
        Seen::first(example.texts(), found)
    }

    fn excused(&self, example: &Seen<'_>) -> bool {
        example.is_about(|text| ABOUT_MARKUP.is_match(&NAMES.replace_all(&TAG.replace_all(text, " "), " ")))
    }
}

/// Paths and names of files. As tags, they say nothing about what a text is about.
static NAMES: LazyLock<Regex> = LazyLock::new(|| pattern(r"\S+/\S+|\b[\w-]+\.\w{1,5}\b"));

/// Parts of a web page that no one wrote for a reader.
pub(super) struct Boilerplate;

static BOILERPLATE: LazyLock<Regex> = LazyLock::new(|| {
    let phrases = [
        r"(?:this (?:site|website|page)|we|our (?:site|website|partners)) (?:and our partners )?uses? cookies",
        r"\baccept (?:all )?cookies\b|\bcookie (?:policy|settings|preferences|banner|consent)\b|\bmanage (?:cookies|consent)\b",
        r"\b(?:subscribe|sign up) (?:to|for) (?:our|the|my) (?:free |weekly |daily )*(?:newsletter|mailing list|updates)\b",
        r"\bshare (?:this|on) (?:article|post|page|story|facebook|twitter|x\b|linkedin|whatsapp|via)|\btweet this\b|\bfollow us on\b|\bpin it\b",
        r"\ball rights reserved\b|(?:©|\(c\)|copyright ©?) ?\d{4}",
        r"\bskip to (?:main )?(?:content|navigation)\b|\bback to top\b|\btoggle navigation\b|\bjump to (?:content|navigation)\b",
        r"\bclick here (?:to|for) (?:read|learn|see|view|download|subscribe|more|continue)\b|\bread (?:more|the full (?:article|story))(?:\s?(?:»|›|→|\.\.\.|…|>>)|$)|\bcontinue reading\b",
        r"\bplease enable javascript\b|\bjavascript (?:is|must be) (?:disabled|enabled|required)\b|^loading(?:\.\.\.|…)",
        r"\b(?:home|news|sports?|about(?: us)?|contact(?: us)?|login|log in|products|blog|faq)(?: ?[|›»>•/] ?(?:home|news|sports?|world|business|about(?: us)?|contact(?: us)?|login|log in|register|products|blog|faq|services|shop|cart|search)){2,}",
        r"\bprivacy policy\b.{0,40}\bterms (?:of (?:use|service)|and conditions|& conditions)\b|\bterms of (?:use|service)\b.{0,40}\bprivacy policy\b",
        r"^advertisement\b|\badvertisement\s*$|\bsponsored content\b|\brelated (?:articles|posts|stories):|\byou (?:may|might) also like\b|\b(?:sign|log) in to (?:continue|comment|read|view)\b|\bcreate (?:a free|an) account to\b|\bdownload (?:our|the) app\b|\b\d+ min(?:ute)?s? read\b|\b(?:filed under|posted in|categories|tags):|\b(?:previous|next) (?:post|article|page)\b|\b(?:print|email|report) this (?:page|article|post)\b|\bby (?:using|continuing to (?:use|browse)) (?:this|our) (?:site|website)\b|\b(?:proudly )?powered by (?:wordpress|disqus|shopify|blogger|drupal)\b|\b(?:load|show|view) more (?:comments|articles|posts|results)\b|\bsite ?map\b|\bunsubscribe\b|\bview (?:this email )?in (?:your )?browser\b|\benter your e-?mail\b|\bjoin our (?:mailing list|newsletter|community)\b|\bwas this (?:article|page|answer|information) helpful\b|\btell a friend\b|^more (?:in|from) [\w ]{2,30}:|\bleave a (?:comment|reply)\b|\bposted (?:by|on|in) .{0,40}\|",
        r"\bwir verwenden cookies\b|\b(?:website|webseite|seite) (?:verwendet|nutzt|benutzt) cookies\b|\bcookies (?:zu)?(?:akzeptieren|ablehnen)\b|\bce site utilise des cookies\b|\beste sitio (?:usa|utiliza) cookies\b|сайт использует (?:файлы )?cookies?|\balle rechte vorbehalten\b|\bnewsletter abonnieren\b|\bmehr lesen\b|\bnous utilisons des cookies\b|\btous droits réservés\b|\blire la suite\b|\busamos cookies\b|\butilizamos cookies\b|\btodos los derechos reservados\b|\bleer más\b|все права защищены|читать далее|поделиться.{0,30}(?:вконтакте|facebook|соцсет)",
    ];
    pattern(&format!("(?im){}", phrases.join("|")))
});
static ABOUT_PAGES: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:cookies?|newsletters?|footers?|copyright|licen[cs]e|privacy|gdpr|dsgvo|banners?|web ?(?:page|site)|landing page|html|css|navigation|menu|button|javascript|accessib\w*|rights|share button|seo|advertis\w*)\b",
    )
});

impl Detector for Boilerplate {
    fn kind(&self) -> Kind {
        Kind {
            name: "boilerplate",
            severity: Severity::Warning,
            sees: "Parts of web pages: cookie banners, newsletters, share buttons, copyright lines, navigation, \"read more\", in five languages, where the prompt does not speak of them.",
            misses: "Boilerplate in other words and other languages.",
        }
    }

    fn find(&self, example: &Seen<'_>) -> Option<String> {
        let found = |text: &str| BOILERPLATE.find(text).map(|found| format!("has {}", quoted(found.as_str())));
        Seen::first(example.texts(), found)
    }

    fn excused(&self, example: &Seen<'_>) -> bool {
        example.prompts().into_iter().any(|text| text.len() < 300 && ABOUT_PAGES.is_match(text))
    }
}
