//! When the rows with one value of an event-time column are all there, and how the schema says so.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use datafusion::arrow::datatypes::{DataType, Field, Fields};

/// The key of the field metadata that says when a value of the column is final.
pub(crate) const TAG: &str = "tidemill.event_time";

/// Takes away what a column inherited: metadata can be overwritten, but not removed.
const NO_TAG: &str = "none";

/// What the tags of sessions are.
const SESSION: &str = "session";
const UNTIMED_SESSION: &str = "untimed session";

/// The field of a window after whose time it is final.
pub(crate) const WINDOW_END: &str = "end";

/// The first field of a window.
pub(crate) const WINDOW_START: &str = "start";

/// From which watermark on no row can come any more that has a given value in a column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Hash)]
pub(crate) enum Finality {
    /// The column holds times; one is final this long after itself.
    After(Span),
    /// The column holds windows; one is final at its end.
    Window {
        /// From start to end in microseconds, if all windows are of one size.
        size: Option<i64>,
    },
    /// The column holds the sessions that rows would be alone, which are still to be merged: they end where
    /// windows do.
    Session {
        /// Whether their times are event times; if not, none is ever final.
        timed: bool,
    },
}

/// A length of time that may depend on the calendar. First the months are added, then the days, then
/// the microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Hash)]
pub(crate) struct Span {
    pub(crate) months: i32,
    pub(crate) days: i32,
    pub(crate) micros: i64,
    /// Whose calendar and days they are; that of the column's type if it is not given. Always given
    /// for dates, which are nobody's by themselves.
    pub(crate) zone: Option<String>,
}

impl Span {
    pub(crate) fn micros(micros: i64) -> Self {
        Self { micros, ..Self::default() }
    }

    /// The longer of the two, if that does not depend on the time that it is added to.
    fn longer(&self, other: &Span) -> Option<Span> {
        let parts = |span: &Span| (span.months, span.days, span.micros);
        match (self, other) {
            _ if parts(self) == (0, 0, 0) => Some(other.clone()),
            _ if parts(other) == (0, 0, 0) => Some(self.clone()),
            _ if (self.months, self.days, &self.zone) != (other.months, other.days, &other.zone) => None,
            _ => Some(if self.micros >= other.micros { self.clone() } else { other.clone() }),
        }
    }
}

impl Finality {
    /// Final as soon as the watermark has come to the value itself.
    pub(crate) fn at_once() -> Self {
        Finality::After(Span::default())
    }

    /// The metadata with which a column says so; `None` if it is not known when its values are final.
    pub(crate) fn metadata(finality: Option<&Finality>) -> HashMap<String, String> {
        let tag = finality.map_or_else(|| NO_TAG.to_string(), ToString::to_string);
        HashMap::from([(TAG.to_string(), tag)])
    }

    /// When the values of two columns are final in both of them, if that can be said of values of one
    /// column that has the rows of both.
    pub(crate) fn later(&self, other: &Finality) -> Option<Finality> {
        match (self, other) {
            (Finality::Window { .. }, Finality::Window { .. }) => Some(Finality::Window { size: None }),
            (Finality::After(a), Finality::After(b)) => a.longer(b).map(Finality::After),
            (Finality::Session { timed: a }, Finality::Session { timed: b }) => {
                Some(Finality::Session { timed: *a && *b })
            }
            _ => None,
        }
    }

    /// Whether a column of this type can be tagged so.
    ///
    /// A date without a time zone was made by a cast that kept the tag of the times below it, which
    /// are final at other times than the dates.
    fn fits(&self, data_type: &DataType) -> bool {
        match (self, data_type) {
            (Finality::After(_), DataType::Timestamp(_, _)) => true,
            (Finality::After(span), DataType::Date32) => span.zone.is_some(),
            (Finality::Window { .. } | Finality::Session { .. }, DataType::Struct(fields)) => {
                is_window(fields)
            }
            _ => false,
        }
    }
}

/// Whether these are the fields of a window: where it starts and where it ends.
pub(crate) fn is_window(fields: &Fields) -> bool {
    let is_time = |field: &Field, name: &str| {
        field.name() == name && matches!(field.data_type(), DataType::Timestamp(_, _))
    };
    matches!(fields.as_ref(), [start, end] if is_time(start, WINDOW_START) && is_time(end, WINDOW_END))
}

/// Whether a column holds sessions that are still to be merged.
pub(crate) fn is_session(field: &Field) -> bool {
    matches!(tag_of(field), Some(Finality::Session { .. }))
}

/// When the values of a column are final, if its schema says so.
pub(crate) fn tag_of(field: &Field) -> Option<Finality> {
    let finality: Finality = field.metadata().get(TAG)?.parse().ok()?;
    finality.fits(field.data_type()).then_some(finality)
}

impl fmt::Display for Finality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finality::After(span) => span.fmt(f),
            Finality::Window { size: None } => f.write_str("window"),
            Finality::Window { size: Some(size) } => write!(f, "window+{size}us"),
            Finality::Session { timed: true } => f.write_str(SESSION),
            Finality::Session { timed: false } => f.write_str(UNTIMED_SESSION),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if (self.months, self.days, self.micros) == (0, 0, 0) {
            f.write_str("0")?;
        }
        let parts = [(i64::from(self.months), "mon"), (i64::from(self.days), "day"), (self.micros, "us")];
        for (amount, unit) in parts.into_iter().filter(|(amount, _)| *amount != 0) {
            write!(f, "+{amount}{unit}")?;
        }
        self.zone.iter().try_for_each(|zone| write!(f, "@{zone}"))
    }
}

/// The tag cannot be read: it was made by a later version, or by somebody else.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnknownTag;

impl FromStr for Finality {
    type Err = UnknownTag;

    fn from_str(text: &str) -> Result<Self, UnknownTag> {
        match text {
            SESSION => return Ok(Finality::Session { timed: true }),
            UNTIMED_SESSION => return Ok(Finality::Session { timed: false }),
            _ => {}
        }
        match text.strip_prefix("window") {
            None => Ok(Finality::After(text.parse()?)),
            Some("") => Ok(Finality::Window { size: None }),
            Some(size) => {
                let span: Span = size.parse()?;
                let size = span.micros;
                let plain = span == Span::micros(size) && size > 0;
                if plain { Ok(Finality::Window { size: Some(size) }) } else { Err(UnknownTag) }
            }
        }
    }
}

impl FromStr for Span {
    type Err = UnknownTag;

    fn from_str(text: &str) -> Result<Self, UnknownTag> {
        let (length, zone) = match text.split_once('@') {
            Some((length, zone)) => (length, Some(zone.to_string())),
            None => (text, None),
        };
        let mut span = Span { zone, ..Span::default() };
        if length == "0" {
            return Ok(span);
        }
        for part in length.strip_prefix('+').ok_or(UnknownTag)?.split('+') {
            let digits = part.find(|c: char| !c.is_ascii_digit()).ok_or(UnknownTag)?;
            let (amount, unit) = part.split_at(digits);
            match unit {
                "mon" => span.months = amount.parse().map_err(|_| UnknownTag)?,
                "day" => span.days = amount.parse().map_err(|_| UnknownTag)?,
                "us" => span.micros = amount.parse().map_err(|_| UnknownTag)?,
                _ => return Err(UnknownTag),
            }
        }
        Ok(span)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn tags_are_read_as_they_are_written() {
        let zone = Some("Europe/Berlin".to_string());
        for (finality, text) in [
            (Finality::at_once(), "0"),
            (Finality::After(Span::micros(600_000_000)), "+600000000us"),
            (Finality::After(Span { months: 3, ..Span::default() }), "+3mon"),
            (
                Finality::After(Span { months: 1, days: 2, micros: 3, zone: zone.clone() }),
                "+1mon+2day+3us@Europe/Berlin",
            ),
            (Finality::After(Span { zone, ..Span::default() }), "0@Europe/Berlin"),
            (Finality::Window { size: None }, "window"),
            (Finality::Window { size: Some(5) }, "window+5us"),
            (Finality::Session { timed: true }, "session"),
            (Finality::Session { timed: false }, "untimed session"),
        ] {
            assert_eq!(finality.to_string(), text);
            assert_eq!(text.parse(), Ok(finality));
        }
        for bad in ["", "none", "+", "1us", "+us", "+-1us", "+1week", "window+1mon", "window+0us", "++1us"] {
            assert_eq!(bad.parse::<Finality>(), Err(UnknownTag), "{bad}");
        }
    }

    #[test]
    fn a_tag_counts_only_on_a_type_it_fits() {
        let time = DataType::Timestamp(TimeUnit::Second, None);
        let window = |names: [&str; 2]| {
            DataType::Struct(names.map(|name| Field::new(name, time.clone(), true)).to_vec().into())
        };
        for (data_type, tag, fits) in [
            (time.clone(), "0", true),
            (time.clone(), "+1mon", true),
            (time.clone(), "none", false),
            (time.clone(), "window", false),
            (DataType::Utf8, "0", false),
            (DataType::Int64, "0", false),
            (DataType::Date32, "0", false),
            (DataType::Date32, "+1day@UTC", true),
            (window(["start", "end"]), "window+7us", true),
            (window(["start", "end"]), "0", false),
            (window(["end", "start"]), "window", false),
        ] {
            let metadata = HashMap::from([(TAG.to_string(), tag.to_string())]);
            let field = Field::new("c", data_type.clone(), true).with_metadata(metadata);
            assert_eq!(tag_of(&field).is_some(), fits, "{data_type} {tag}");
        }
        assert_eq!(tag_of(&Field::new("c", time, true)), None);
    }
}
