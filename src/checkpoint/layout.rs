//! The names of a checkpoint's files.

/// Who the query is.
pub(crate) const METADATA: &str = "metadata";
/// Directory of what the query is since its columns have become more.
pub(crate) const DEFINITION: &str = "definition";
/// Directory of writer generations.
pub(crate) const FENCE: &str = "fence";
/// Directory of planned batches.
pub(crate) const OFFSETS: &str = "offsets";
/// Directory of finished batches.
pub(crate) const COMMITS: &str = "commits";
/// Directory of merged source entries, one directory per source below it.
pub(crate) const HISTORY: &str = "history";

/// Directory of the state of stateful operators.
pub(crate) const STATE: &str = "state";

/// `fence/<generation>`
pub(crate) fn fence(generation: u64) -> String {
    format!("{FENCE}/{generation}")
}

/// `definition/<number>`
pub(crate) fn definition(number: u64) -> String {
    format!("{DEFINITION}/{number}")
}

/// `offsets/<batch>`
pub(crate) fn offsets(batch_id: u64) -> String {
    format!("{OFFSETS}/{batch_id}")
}

/// `commits/<batch>`
pub(crate) fn commit(batch_id: u64) -> String {
    format!("{COMMITS}/{batch_id}")
}

/// `history/<source>`
pub(crate) fn history(source: usize) -> String {
    format!("{HISTORY}/{source}")
}

/// `history/<source>/<first>-<last>`
pub(crate) fn segment(source: usize, first: u64, last: u64) -> String {
    format!("{HISTORY}/{source}/{first}-{last}")
}

/// The directory that it is in; of `metadata` none.
pub(crate) fn directory(path: &str) -> &str {
    path.split_once('/').map_or("", |(directory, _)| directory)
}

/// The name below its directory.
pub(crate) fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// A number as this module writes it: decimal, no sign, no leading zero. Up to `i64::MAX`, which
/// leaves room to count on from it.
pub(crate) fn number(name: &str) -> Option<u64> {
    let number: u64 = name.parse().ok()?;
    (number.to_string() == name && i64::try_from(number).is_ok()).then_some(number)
}

/// `<first>-<last>` with `first <= last`.
pub(crate) fn range(name: &str) -> Option<(u64, u64)> {
    let (first, last) = name.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_spelling_of_a_number_counts() {
        assert_eq!(
            [number("0"), number("12"), number("9223372036854775807")],
            [0, 12, i64::MAX as u64].map(Some)
        );
        for name in ["", "00", "012", "+1", "-1", "1 ", "1.tmp", "١", "9223372036854775808"] {
            assert_eq!(number(name), None, "{name}");
        }
        assert_eq!((range("0-9"), range("9-0"), range("0-09"), range("0")), (Some((0, 9)), None, None, None));
        assert_eq!((name("offsets/12"), name("metadata")), ("12", "metadata"));
    }
}
