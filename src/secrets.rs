//! What must not be read by everybody who reads a message.

use std::sync::LazyLock;

use regex::{Captures, Regex};

/// What stands for a secret.
const MASK: &str = "***";

/// The password of a URL, `password=…`, and values of options whose names say that they are secret.
static SECRETS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let names = "[a-z0-9_.]*(?:password|passwd|secret|token|jaas|auth[.]user[.]info)[a-z0-9_.]*";
    Regex::new(&format!(
        r"(?i)(?P<url>[a-z][a-z0-9+.-]*://[^\s:/@']*:)[^\s@']+@|(?P<pair>\b{names}\s*=\s*)(?:''[^']*''|[^\s'&;,)]+)|(?P<option>'{names}'\s+)'(?:[^']|'')*'"
    ))
    .ok()
});

/// `text`, which may be shown, without the passwords in it.
pub(crate) fn masked(text: &str) -> String {
    let Some(secrets) = &*SECRETS else { return MASK.into() };
    let mask = |found: &Captures<'_>| {
        let named = |name| found.name(name).map(|part| part.as_str());
        match (named("url"), named("pair"), named("option")) {
            (Some(before), ..) => format!("{before}{MASK}@"),
            (_, Some(before), _) => format!("{before}{MASK}"),
            (.., Some(before)) => format!("{before}'{MASK}'"),
            _ => MASK.into(),
        }
    };
    secrets.replace_all(text, mask).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (text, shown) in [
            (
                "LOCATION 'postgresql://ann:s3:c/t@db:5433/shop'",
                "LOCATION 'postgresql://ann:***@db:5433/shop'",
            ),
            ("postgresql://ann@db/shop?sslmode=require", "postgresql://ann@db/shop?sslmode=require"),
            ("'url' 'host=db password=s3cret user=ann'", "'url' 'host=db password=*** user=ann'"),
            ("'url' 'host=db password=''a b'' user=ann'", "'url' 'host=db password=*** user=ann'"),
            (
                "postgres://db/shop?user=ann&password=s3cret&a=b",
                "postgres://db/shop?user=ann&password=***&a=b",
            ),
            (
                "OPTIONS ('sasl.password' 'it''s', 'table' 't')",
                "OPTIONS ('sasl.password' '***', 'table' 't')",
            ),
            (
                "OPTIONS ('schema.registry.basic.auth.user.info' 'ann:s3cret')",
                "OPTIONS ('schema.registry.basic.auth.user.info' '***')",
            ),
            (
                "LOCATION 's3://bucket/a:b' OPTIONS ('sep' ':')",
                "LOCATION 's3://bucket/a:b' OPTIONS ('sep' ':')",
            ),
        ] {
            assert_eq!(masked(text), shown);
        }
    }
}
