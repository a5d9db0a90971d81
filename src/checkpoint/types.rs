//! The types of columns as a checkpoint records them: a structure of its own, which neither another
//! spelling of a type nor another version of Arrow changes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The type of a column. In JSON the name, `"Int64"`, or an object with the name and what belongs to it,
/// `{"Timestamp":{"unit":"Microsecond","zone":"UTC"}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names are Arrow's")]
pub enum ColumnType {
    Null,
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float16,
    Float32,
    Float64,
    Date32,
    Date64,
    Time32 { unit: Unit },
    Time64 { unit: Unit },
    Timestamp { unit: Unit, zone: Option<String> },
    Duration { unit: Unit },
    Interval { unit: Interval },
    Decimal32 { precision: u8, scale: i8 },
    Decimal64 { precision: u8, scale: i8 },
    Decimal128 { precision: u8, scale: i8 },
    Decimal256 { precision: u8, scale: i8 },
    Utf8,
    LargeUtf8,
    Utf8View,
    Binary,
    LargeBinary,
    BinaryView,
    FixedSizeBinary { size: i32 },
    List(Box<Part>),
    LargeList(Box<Part>),
    ListView(Box<Part>),
    LargeListView(Box<Part>),
    FixedSizeList { of: Box<Part>, size: i32 },
    Struct(Vec<Part>),
    Map { entries: Box<Part>, sorted: bool },
    Union { dense: bool, of: Vec<Variant> },
    Dictionary { keys: Box<ColumnType>, values: Box<ColumnType> },
    RunEndEncoded { ends: Box<Part>, values: Box<Part> },
}

/// A field of a struct, the element of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: ColumnType,
    /// Whether it may be null.
    pub nullable: bool,
}

/// One of the types of a union.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Variant {
    /// The number that values of it have.
    pub id: i8,
    /// Its name and type.
    pub part: Part,
}

/// What a time counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are Arrow's")]
pub enum Unit {
    Second,
    Millisecond,
    Microsecond,
    Nanosecond,
}

/// What an interval counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are Arrow's")]
pub enum Interval {
    YearMonth,
    DayTime,
    MonthDayNano,
}

impl ColumnType {
    /// The same type in the one layout of text and bytes: Arrow has three of each, which hold the same values.
    pub(super) fn plain(&self) -> Self {
        match self {
            Self::LargeUtf8 | Self::Utf8View => Self::Utf8,
            Self::LargeBinary | Self::BinaryView => Self::Binary,
            Self::List(of) => Self::List(of.plain()),
            Self::LargeList(of) => Self::LargeList(of.plain()),
            Self::ListView(of) => Self::ListView(of.plain()),
            Self::LargeListView(of) => Self::LargeListView(of.plain()),
            Self::FixedSizeList { of, size } => Self::FixedSizeList { of: of.plain(), size: *size },
            Self::Struct(parts) => Self::Struct(parts.iter().map(|part| *part.plain()).collect()),
            Self::Map { entries, sorted } => Self::Map { entries: entries.plain(), sorted: *sorted },
            Self::Dictionary { keys, values } => {
                Self::Dictionary { keys: keys.clone(), values: Box::new(values.plain()) }
            }
            other => other.clone(),
        }
    }
}

impl Part {
    fn plain(&self) -> Box<Self> {
        Box::new(Self { data_type: self.data_type.plain(), ..self.clone() })
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ColumnType::Time32 { unit } => write!(f, "Time32({unit:?})"),
            ColumnType::Time64 { unit } => write!(f, "Time64({unit:?})"),
            ColumnType::Timestamp { unit, zone: None } => write!(f, "Timestamp({unit:?})"),
            ColumnType::Timestamp { unit, zone: Some(zone) } => write!(f, "Timestamp({unit:?}, {zone})"),
            ColumnType::Duration { unit } => write!(f, "Duration({unit:?})"),
            ColumnType::Interval { unit } => write!(f, "Interval({unit:?})"),
            ColumnType::Decimal32 { precision, scale } => write!(f, "Decimal32({precision}, {scale})"),
            ColumnType::Decimal64 { precision, scale } => write!(f, "Decimal64({precision}, {scale})"),
            ColumnType::Decimal128 { precision, scale } => write!(f, "Decimal128({precision}, {scale})"),
            ColumnType::Decimal256 { precision, scale } => write!(f, "Decimal256({precision}, {scale})"),
            ColumnType::FixedSizeBinary { size } => write!(f, "FixedSizeBinary({size})"),
            ColumnType::List(of) => write!(f, "List({of})"),
            ColumnType::LargeList(of) => write!(f, "LargeList({of})"),
            ColumnType::ListView(of) => write!(f, "ListView({of})"),
            ColumnType::LargeListView(of) => write!(f, "LargeListView({of})"),
            ColumnType::FixedSizeList { of, size } => write!(f, "FixedSizeList({size} x {of})"),
            ColumnType::Struct(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| format!("{}: {part}", part.name)).collect();
                write!(f, "Struct({})", parts.join(", "))
            }
            ColumnType::Map { entries, sorted: false } => write!(f, "Map({entries})"),
            ColumnType::Map { entries, sorted: true } => write!(f, "Map({entries}, sorted)"),
            ColumnType::Union { dense, of } => {
                let parts: Vec<String> = of
                    .iter()
                    .map(|variant| format!("{} {}: {}", variant.id, variant.part.name, variant.part))
                    .collect();
                write!(f, "Union({}, {})", if *dense { "dense" } else { "sparse" }, parts.join(", "))
            }
            ColumnType::Dictionary { keys, values } => write!(f, "Dictionary({keys}, {values})"),
            ColumnType::RunEndEncoded { ends, values } => write!(f, "RunEndEncoded({ends}, {values})"),
            plain => write!(f, "{plain:?}"),
        }
    }
}

/// Its type, and whether it may be null.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if self.nullable { "" } else { "non-null " };
        write!(f, "{prefix}{}", self.data_type)
    }
}
