//! Values of a fixed width.

use datafusion::arrow::datatypes::{ArrowNativeType, IntervalDayTime, IntervalMonthDayNano, i256};
use half::f16;

/// A value whose bytes are in its order.
pub(super) trait Native: ArrowNativeType {
    /// An array of bytes.
    type Bytes: AsRef<[u8]> + for<'a> TryFrom<&'a [u8]>;
    /// How many bytes those are.
    const WIDTH: usize = size_of::<Self::Bytes>();

    fn encode(self) -> Self::Bytes;

    fn decode(bytes: Self::Bytes) -> Self;

    /// The one of all values that SQL takes for equal that stands for them.
    fn canonical(self) -> Self {
        self
    }
}

macro_rules! unsigned {
    ($($native:ty),*) => {$(
        impl Native for $native {
            type Bytes = [u8; size_of::<$native>()];

            fn encode(self) -> Self::Bytes {
                self.to_be_bytes()
            }

            fn decode(bytes: Self::Bytes) -> Self {
                Self::from_be_bytes(bytes)
            }
        }
    )*};
}

macro_rules! signed {
    ($($native:ty),*) => {$(
        impl Native for $native {
            type Bytes = [u8; size_of::<$native>()];

            fn encode(self) -> Self::Bytes {
                (self ^ <$native>::MIN).to_be_bytes()
            }

            fn decode(bytes: Self::Bytes) -> Self {
                Self::from_be_bytes(bytes) ^ <$native>::MIN
            }
        }
    )*};
}

macro_rules! float {
    ($($native:ty => $bits:ty);*) => {$(
        impl Native for $native {
            type Bytes = [u8; size_of::<$bits>()];

            fn encode(self) -> Self::Bytes {
                const SIGN: $bits = 1 << (<$bits>::BITS - 1);
                let bits = self.to_bits();
                let turned = if bits & SIGN == 0 { bits ^ SIGN } else { !bits };
                turned.to_be_bytes()
            }

            fn decode(bytes: Self::Bytes) -> Self {
                const SIGN: $bits = 1 << (<$bits>::BITS - 1);
                let turned = <$bits>::from_be_bytes(bytes);
                Self::from_bits(if turned & SIGN == 0 { !turned } else { turned ^ SIGN })
            }

            fn canonical(self) -> Self {
                const SIGN: $bits = 1 << (<$bits>::BITS - 1);
                if self.to_bits() == SIGN { Self::from_bits(0) } else { self }
            }
        }
    )*};
}

unsigned!(u8, u16, u32, u64);
signed!(i8, i16, i32, i64, i128, i256);
float!(f16 => u16; f32 => u32; f64 => u64);

impl Native for IntervalDayTime {
    type Bytes = [u8; 8];

    fn encode(self) -> Self::Bytes {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.days.encode());
        bytes[4..].copy_from_slice(&self.milliseconds.encode());
        bytes
    }

    fn decode(bytes: Self::Bytes) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self { days: i32::decode([a, b, c, d]), milliseconds: i32::decode([e, f, g, h]) }
    }
}

impl Native for IntervalMonthDayNano {
    type Bytes = [u8; 16];

    fn encode(self) -> Self::Bytes {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&self.months.encode());
        bytes[4..8].copy_from_slice(&self.days.encode());
        bytes[8..].copy_from_slice(&self.nanoseconds.encode());
        bytes
    }

    fn decode(bytes: Self::Bytes) -> Self {
        let (mut months, mut days, mut nanoseconds) = ([0; 4], [0; 4], [0; 8]);
        months.copy_from_slice(&bytes[..4]);
        days.copy_from_slice(&bytes[4..8]);
        nanoseconds.copy_from_slice(&bytes[8..]);
        Self { months: i32::decode(months), days: i32::decode(days), nanoseconds: i64::decode(nanoseconds) }
    }
}

/// `$body` with `$native` for what the values of a type of fixed width are in memory, `$other` for
/// other types.
macro_rules! with_native {
    ($data_type:expr, $native:ident => $body:expr, _ => $other:expr) => {{
        use datafusion::arrow::datatypes::DataType as Type;
        use datafusion::arrow::datatypes::{IntervalDayTime, IntervalMonthDayNano, IntervalUnit, i256};
        macro_rules! with {
            ($type:ty) => {{
                type $native = $type;
                $body
            }};
        }
        match $data_type {
            Type::Int8 => with!(i8),
            Type::Int16 => with!(i16),
            Type::Int32
            | Type::Date32
            | Type::Time32(_)
            | Type::Decimal32(..)
            | Type::Interval(IntervalUnit::YearMonth) => with!(i32),
            Type::Int64
            | Type::Date64
            | Type::Time64(_)
            | Type::Timestamp(..)
            | Type::Duration(_)
            | Type::Decimal64(..) => with!(i64),
            Type::Decimal128(..) => with!(i128),
            Type::Decimal256(..) => with!(i256),
            Type::UInt8 => with!(u8),
            Type::UInt16 => with!(u16),
            Type::UInt32 => with!(u32),
            Type::UInt64 => with!(u64),
            Type::Float16 => with!(half::f16),
            Type::Float32 => with!(f32),
            Type::Float64 => with!(f64),
            Type::Interval(IntervalUnit::DayTime) => with!(IntervalDayTime),
            Type::Interval(IntervalUnit::MonthDayNano) => with!(IntervalMonthDayNano),
            _ => $other,
        }
    }};
}

pub(super) use with_native;
