//! Spark's patterns of dates and times (`yyyy-MM-dd'T'HH:mm:ss[.SSS][XXX]`).

use chrono::{FixedOffset, NaiveDate, NaiveDateTime, NaiveTime};
use datafusion::arrow::array::timezone::Tz;

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::source::file) struct Pattern {
    items: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    /// This text.
    Literal(String),
    /// Digits: from so many to so many.
    Number(Field, usize, usize),
    /// Parts of a second: at most so many digits.
    Fraction(usize),
    /// The name of a month, or `AM` or `PM`, or a day of the week, in English.
    Name(Names),
    /// An offset from UTC; whether `Z` stands for none.
    Offset(bool),
    /// A time zone's name, or an offset.
    Zone,
    /// May be there.
    Optional(Vec<Item>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Year,
    /// The last two digits of a year from 2000 to 2099.
    ShortYear,
    Month,
    Day,
    DayOfYear,
    Hour,
    /// 1 to 24.
    ClockHour,
    /// 0 to 11.
    HalfDayHour,
    /// 1 to 12.
    HalfDayClockHour,
    Minute,
    Second,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Month,
    HalfDay,
    Weekday,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// What a text says by a pattern.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Parsed {
    date: NaiveDate,
    time: NaiveTime,
    /// Where that is the time, if the text says it.
    pub(super) zone: Option<Zone>,
}

/// Where a local time is the time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Zone {
    Offset(FixedOffset),
    Named(Tz),
}

impl Parsed {
    /// The date, as it is written.
    pub(super) fn date(&self) -> NaiveDate {
        self.date
    }

    /// The date and time, as they are written.
    pub(super) fn local(&self) -> NaiveDateTime {
        self.date.and_time(self.time)
    }
}

impl Pattern {
    /// Compiles a pattern; the error says what it does not know.
    pub(in crate::source::file) fn new(text: &str) -> Result<Self, String> {
        let mut letters = text.chars().peekable();
        let items = items(&mut letters, false)?;
        if items.is_empty() {
            return Err("it is empty".into());
        }
        Ok(Self { items })
    }

    /// What `text` says; `None` if it is not written as the pattern says.
    pub(super) fn parse(&self, text: &str) -> Option<Parsed> {
        let mut found = Found::default();
        let rest = take_all(&self.items, text, &mut found)?;
        if rest.is_empty() { found.resolve() } else { None }
    }
}

fn items(letters: &mut std::iter::Peekable<std::str::Chars<'_>>, nested: bool) -> Result<Vec<Item>, String> {
    let mut items: Vec<Item> = Vec::new();
    while let Some(letter) = letters.next() {
        match letter {
            '[' => items.push(Item::Optional(self::items(letters, true)?)),
            ']' if nested => return Ok(fixed_widths(items)),
            ']' => return Err("a ] has no [".into()),
            '\'' => literal(&mut items, &quoted(letters)?),
            letter if letter.is_ascii_alphabetic() => {
                let mut count = 1;
                while letters.next_if_eq(&letter).is_some() {
                    count += 1;
                }
                items.push(field(letter, count)?);
            }
            '#' | '{' | '}' => return Err(format!("'{letter}' is reserved")),
            other => literal(&mut items, other.encode_utf8(&mut [0; 4])),
        }
    }
    if nested { Err("a [ is not closed".into()) } else { Ok(fixed_widths(items)) }
}

fn quoted(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String, String> {
    if letters.next_if_eq(&'\'').is_some() {
        return Ok("'".into());
    }
    let mut text = String::new();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' if letters.next_if_eq(&'\'').is_some() => text.push('\''),
            '\'' => return Ok(text),
            other => text.push(other),
        }
    }
    Err("a quote is not closed".into())
}

fn literal(items: &mut Vec<Item>, text: &str) {
    match items.last_mut() {
        Some(Item::Literal(before)) => before.push_str(text),
        _ => items.push(Item::Literal(text.to_string())),
    }
}

fn field(letter: char, count: usize) -> Result<Item, String> {
    /// As many digits as a year can have.
    const YEAR_DIGITS: usize = 6;
    let number = |field, most: usize| match count {
        1 => Ok(Item::Number(field, 1, most)),
        count if count <= most => Ok(Item::Number(field, count, most)),
        _ => Err(format!("'{}' is too long", letter.to_string().repeat(count))),
    };
    match (letter, count) {
        ('y' | 'u', 2) => Ok(Item::Number(Field::ShortYear, 2, 2)),
        ('y' | 'u', 1..=YEAR_DIGITS) => Ok(Item::Number(Field::Year, count, YEAR_DIGITS)),
        ('M' | 'L', 3 | 4) => Ok(Item::Name(Names::Month)),
        ('M' | 'L', _) => number(Field::Month, 2),
        ('d', _) => number(Field::Day, 2),
        ('D', _) => number(Field::DayOfYear, 3),
        ('H', _) => number(Field::Hour, 2),
        ('k', _) => number(Field::ClockHour, 2),
        ('K', _) => number(Field::HalfDayHour, 2),
        ('h', _) => number(Field::HalfDayClockHour, 2),
        ('m', _) => number(Field::Minute, 2),
        ('s', _) => number(Field::Second, 2),
        ('S', 1..=9) => Ok(Item::Fraction(count)),
        ('a', 1) => Ok(Item::Name(Names::HalfDay)),
        ('E', 1..=4) => Ok(Item::Name(Names::Weekday)),
        ('X', 1..=5) | ('Z', 5) => Ok(Item::Offset(true)),
        ('x', 1..=5) | ('Z', 1..=4) | ('O', 1 | 4) => Ok(Item::Offset(false)),
        ('V', 2) | ('z', 1..=4) => Ok(Item::Zone),
        _ => Err(format!("it has no '{}'", letter.to_string().repeat(count))),
    }
}

/// Digits that follow one another are told apart by how many there are.
fn fixed_widths(mut items: Vec<Item>) -> Vec<Item> {
    for at in 0..items.len() {
        let followed = matches!(items.get(at + 1), Some(Item::Number(..) | Item::Fraction(_)));
        match &mut items[at] {
            Item::Number(_, least, most) if followed => *most = *least,
            // `yyyy` takes just four, unless something else than digits shows where it ends.
            Item::Number(Field::Year, least, most) if *least == 4 => *most = 4,
            // Two letters are two digits.
            Item::Number(_, least, most) if *least > 1 => *most = *least,
            _ => {}
        }
    }
    items
}

/// What was found so far.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    year: Option<i32>,
    month: Option<u32>,
    day: Option<u32>,
    day_of_year: Option<u32>,
    hour: Option<u32>,
    half_day_hour: Option<u32>,
    afternoon: Option<bool>,
    minute: u32,
    second: u32,
    nanos: u32,
    zone: Option<Zone>,
}

impl Found {
    fn set(&mut self, field: Field, value: u32) -> Option<()> {
        match field {
            Field::Year => self.year = Some(i32::try_from(value).ok()?),
            Field::ShortYear => self.year = Some(2000 + i32::try_from(value).ok()?),
            Field::Month => self.month = Some(value),
            Field::Day => self.day = Some(value),
            Field::DayOfYear => self.day_of_year = Some(value),
            Field::Hour => self.hour = Some(value),
            Field::ClockHour => self.hour = Some((1..=24).contains(&value).then_some(value % 24)?),
            Field::HalfDayHour => self.half_day_hour = Some((0..12).contains(&value).then_some(value)?),
            Field::HalfDayClockHour => {
                self.half_day_hour = Some((1..=12).contains(&value).then_some(value % 12)?);
            }
            Field::Minute => self.minute = value,
            Field::Second => self.second = value,
        }
        Some(())
    }

    /// What is not said is that of 1970-01-01 00:00:00, as in Spark.
    fn resolve(self) -> Option<Parsed> {
        const FIRST_YEAR: i32 = 1970;
        let year = self.year.unwrap_or(FIRST_YEAR);
        let date = match self.day_of_year {
            Some(day) if self.month.is_none() && self.day.is_none() => NaiveDate::from_yo_opt(year, day)?,
            _ => NaiveDate::from_ymd_opt(year, self.month.unwrap_or(1), self.day.unwrap_or(1))?,
        };
        let half_day = || Some(self.half_day_hour? + if self.afternoon.unwrap_or(false) { 12 } else { 0 });
        let hour = self.hour.or_else(half_day).unwrap_or(0);
        let time = NaiveTime::from_hms_nano_opt(hour, self.minute, self.second, self.nanos)?;
        Some(Parsed { date, time, zone: self.zone })
    }
}

fn take_all<'a>(items: &[Item], text: &'a str, found: &mut Found) -> Option<&'a str> {
    let Some((first, others)) = items.split_first() else { return Some(text) };
    if let Item::Optional(inner) = first {
        let mut with = *found;
        let taken = take_all(inner, text, &mut with).and_then(|rest| take_all(others, rest, &mut with));
        if let Some(rest) = taken {
            *found = with;
            return Some(rest);
        }
        return take_all(others, text, found);
    }
    take_all(others, take(first, text, found)?, found)
}

fn take<'a>(item: &Item, text: &'a str, found: &mut Found) -> Option<&'a str> {
    match item {
        Item::Literal(literal) => text.strip_prefix(literal.as_str()),
        Item::Number(field, least, most) => {
            let (digits, rest) = digits(text, *least, *most)?;
            found.set(*field, digits.parse().ok()?)?;
            Some(rest)
        }
        Item::Fraction(most) => {
            let (digits, rest) = digits(text, 1, *most)?;
            found.nanos = format!("{digits:0<9}").parse().ok()?;
            Some(rest)
        }
        Item::Name(names) => name(*names, text, found),
        Item::Offset(with_z) => {
            let (offset, rest) = offset(text, *with_z)?;
            found.zone = Some(Zone::Offset(offset));
            Some(rest)
        }
        Item::Zone => {
            let is_part = |letter: char| letter.is_ascii_alphanumeric() || "/_+-:".contains(letter);
            let end = text.find(|letter| !is_part(letter)).unwrap_or(text.len());
            let (zone, rest) = text.split_at(end);
            found.zone = Some(match zone {
                "Z" | "GMT" | "UT" => Zone::Offset(FixedOffset::east_opt(0)?),
                zone => Zone::Named(zone.parse().ok()?),
            });
            Some(rest)
        }
        Item::Optional(_) => None,
    }
}

fn digits(text: &str, least: usize, most: usize) -> Option<(&str, &str)> {
    let count = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
    (count >= least).then(|| text.split_at(count))
}

fn name<'a>(names: Names, text: &'a str, found: &mut Found) -> Option<&'a str> {
    let strip = |name: &str| {
        let head = text.get(..name.len())?;
        head.eq_ignore_ascii_case(name).then(|| &text[name.len()..])
    };
    // Whole names go before their first three letters.
    let longest = |known: &[&str]| {
        let whole = known.iter().enumerate().find_map(|(at, name)| Some((at, strip(name)?)));
        whole.or_else(|| known.iter().enumerate().find_map(|(at, name)| Some((at, strip(&name[..3])?))))
    };
    match names {
        Names::Month => {
            let (month, rest) = longest(&MONTHS)?;
            found.month = Some(month as u32 + 1);
            Some(rest)
        }
        Names::Weekday => longest(&WEEKDAYS).map(|(_, rest)| rest),
        Names::HalfDay => {
            let (afternoon, rest) =
                strip("AM").map(|rest| (false, rest)).or_else(|| strip("PM").map(|rest| (true, rest)))?;
            found.afternoon = Some(afternoon);
            Some(rest)
        }
    }
}

/// `Z`, `+02`, `+0200`, `+02:00`, with `GMT` or `UTC` in front of it or not.
fn offset(text: &str, with_z: bool) -> Option<(FixedOffset, &str)> {
    if with_z && let Some(rest) = text.strip_prefix('Z') {
        return Some((FixedOffset::east_opt(0)?, rest));
    }
    let named = text.strip_prefix("GMT").or_else(|| text.strip_prefix("UTC"));
    let rest = named.unwrap_or(text);
    let sign = match rest.bytes().next() {
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => return named.and_then(|rest| Some((FixedOffset::east_opt(0)?, rest))),
    };
    let (hours, rest) = digits(&rest[1..], 2, 2)?;
    let minutes = digits(rest.strip_prefix(':').unwrap_or(rest), 2, 2);
    let (minutes, rest) = minutes.unwrap_or(("0", rest));
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    let known = minutes < 60 && hours <= 18;
    FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60)).filter(|_| known).map(|offset| (offset, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pattern: &str, text: &str) -> Option<String> {
        let parsed = Pattern::new(pattern).unwrap().parse(text)?;
        let zone = match parsed.zone {
            None => String::new(),
            Some(Zone::Offset(offset)) => offset.to_string(),
            Some(Zone::Named(zone)) => format!(" {zone:?}"),
        };
        Some(format!("{}{zone}", parsed.local().format("%Y-%m-%dT%H:%M:%S%.f")))
    }

    #[test]
    fn texts_are_read_as_spark_reads_them() {
        for (pattern, text, expected) in [
            ("yyyy-MM-dd'T'HH:mm:ss[.SSS][XXX]", "2024-02-29T12:34:56", "2024-02-29T12:34:56"),
            ("yyyy-MM-dd'T'HH:mm:ss[.SSS][XXX]", "2024-02-29T12:34:56.7Z", "2024-02-29T12:34:56.700+00:00"),
            ("yyyy-MM-dd'T'HH:mm:ss[.SSS][XXX]", "2024-02-29T12:34:56-05:00", "2024-02-29T12:34:56-05:00"),
            ("dd/MM/yyyy HH:mm", "29/02/2024 01:02", "2024-02-29T01:02:00"),
            ("d.M.yyyy", "9.2.2024", "2024-02-09T00:00:00"),
            ("d.M.yyyy", "29.12.2024", "2024-12-29T00:00:00"),
            ("yyyyMMddHHmmssSSS", "20240229123456789", "2024-02-29T12:34:56.789"),
            ("yyMMdd", "240229", "2024-02-29T00:00:00"),
            ("MMM d, yyyy h:mm a", "Feb 29, 2024 12:05 AM", "2024-02-29T00:05:00"),
            ("MMMM d, yyyy h:mm a", "september 9, 2024 1:05 pm", "2024-09-09T13:05:00"),
            ("EEE, dd MMM yyyy HH:mm:ss Z", "Thu, 29 Feb 2024 12:00:00 +0200", "2024-02-29T12:00:00+02:00"),
            ("yyyy-DDD", "2024-060", "2024-02-29T00:00:00"),
            ("HH:mm", "07:08", "1970-01-01T07:08:00"),
            ("yyyy-MM-dd kk", "2024-01-01 24", "2024-01-01T00:00:00"),
            ("yyyy''MM 'o''clock'", "2024'05 o'clock", "2024-05-01T00:00:00"),
        ] {
            assert_eq!(parse(pattern, text).as_deref(), Some(expected), "{pattern} {text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for (pattern, text) in [
            ("yyyy-MM-dd", "2024-2-29"),
            ("yyyy-MM-dd", "2023-02-29"),
            ("yyyy-MM-dd", "2024-02-29T00"),
            ("yyyy-MM-dd", "20240-02-29"),
            ("HH:mm:ss", "24:00:00"),
            ("hh a", "13 PM"),
            ("yyyy-MM-ddXXX", "2024-02-29+25:00"),
            ("yyyy-MM-ddxxx", "2024-02-29Z"),
            ("yyyyMMdd", "2024022é"),
            ("MMM", "Fex"),
        ] {
            assert_eq!(parse(pattern, text), None, "{pattern} {text}");
        }
        for pattern in ["", "yyyy-MM-dd Q", "[yyyy", "yyyy]", "'open", "SSSSSSSSSS", "MMMMM", "#"] {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
    }
}
