#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    Number(i64),
    Word(String),
    Comma,
}

pub fn tokenize(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for part in text.split_whitespace() {
        let token = match part.parse::<i64>() {
            Ok(number) => Token::Number(number),
            Err(_) => Token::Word(part.to_string()),
        };
        tokens.push(token);
    }
    tokens
}

pub fn describe(token: &Token) -> &'static str {
    match token {
        Token::Number(_) => "number",
        Token::Word(_) => "word",
        Token::Comma => "comma",
    }
}
