//! What readers of binary formats find out by panicking: they believe a damaged file.

use std::any::Any;

/// What is wrong with the file, in the words of the reader that gave up.
pub(super) fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    format!("it is damaged: {}", text.unwrap_or("its reader gave up"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_panicked_is_told() {
        assert_eq!(reason(&"a length of 7"), "it is damaged: a length of 7");
        assert_eq!(reason(&format!("a length of {}", 8)), "it is damaged: a length of 8");
        assert_eq!(reason(&9), "it is damaged: its reader gave up");
    }
}
