//! Events as columns.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{ArrayRef, Int64Array, StringViewBuilder, TimestampNanosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::events::{COLD_CHANNELS, Events, HOT_CHANNELS, Kind};
use super::random::Random;

const NANOS_PER_MILLI: i64 = 1_000_000;

/// The columns of the table of one type of events, none of which is ever null.
pub(super) fn schema(kind: Kind) -> SchemaRef {
    let (number, text) = (DataType::Int64, DataType::Utf8View);
    let time = DataType::Timestamp(TimeUnit::Nanosecond, None);
    let columns: &[(&str, &DataType)] = match kind {
        Kind::Person => &[
            ("id", &number),
            ("name", &text),
            ("email_address", &text),
            ("credit_card", &text),
            ("city", &text),
            ("state", &text),
            ("date_time", &time),
            ("extra", &text),
        ],
        Kind::Auction => &[
            ("id", &number),
            ("item_name", &text),
            ("description", &text),
            ("initial_bid", &number),
            ("reserve", &number),
            ("date_time", &time),
            ("expires", &time),
            ("seller", &number),
            ("category", &number),
            ("extra", &text),
        ],
        Kind::Bid => &[
            ("auction", &number),
            ("bidder", &number),
            ("price", &number),
            ("channel", &text),
            ("url", &text),
            ("date_time", &time),
            ("extra", &text),
        ],
    };
    let field = |(name, data_type): &(&str, &DataType)| Field::new(*name, (*data_type).clone(), false);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// Some columns, by their names, of the events `ids`, which are of `kind`.
pub(super) fn columns(events: &Events, kind: Kind, ids: &[u64], names: &SchemaRef) -> Vec<ArrayRef> {
    let times = || times(ids.iter().map(|id| events.time_ms(*id)));
    let names = names.fields().iter().map(|field| field.name().as_str());
    match kind {
        Kind::Person => {
            let all: Vec<_> = ids.iter().map(|id| events.person(*id)).collect();
            let column = |name| match name {
                "id" => numbers(all.iter().map(|person| person.id)),
                "name" => texts(all.iter().map(|person| person.name.as_str())),
                "email_address" => texts(all.iter().map(|person| person.email_address.as_str())),
                "credit_card" => texts(all.iter().map(|person| person.credit_card.as_str())),
                "city" => texts(all.iter().map(|person| person.city)),
                "state" => texts(all.iter().map(|person| person.state)),
                "date_time" => times(),
                _ => texts(all.iter().map(|person| person.extra.text())),
            };
            names.map(column).collect()
        }
        Kind::Auction => {
            let all: Vec<_> = ids.iter().map(|id| events.auction(*id)).collect();
            let column = |name| match name {
                "id" => numbers(all.iter().map(|auction| auction.id)),
                "item_name" => texts(all.iter().map(|auction| auction.item_name.as_str())),
                "description" => texts(all.iter().map(|auction| auction.description.as_str())),
                "initial_bid" => numbers(all.iter().map(|auction| auction.initial_bid)),
                "reserve" => numbers(all.iter().map(|auction| auction.reserve)),
                "date_time" => times(),
                "expires" => self::times(all.iter().map(|auction| auction.expires)),
                "seller" => numbers(all.iter().map(|auction| auction.seller)),
                "category" => numbers(all.iter().map(|auction| auction.category)),
                _ => texts(all.iter().map(|auction| auction.extra.text())),
            };
            names.map(column).collect()
        }
        Kind::Bid => {
            let all: Vec<_> = ids.iter().map(|id| events.bid(*id)).collect();
            let channel = |channel: u64| &CHANNELS[channel as usize];
            let column = |name| match name {
                "auction" => numbers(all.iter().map(|bid| bid.auction)),
                "bidder" => numbers(all.iter().map(|bid| bid.bidder)),
                "price" => numbers(all.iter().map(|bid| bid.price)),
                "channel" => texts(all.iter().map(|bid| channel(bid.channel).name.as_str())),
                "url" => texts(all.iter().map(|bid| channel(bid.channel).url.as_str())),
                "date_time" => times(),
                _ => texts(all.iter().map(|bid| bid.extra.text())),
            };
            names.map(column).collect()
        }
    }
}

fn numbers(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

/// Of milliseconds since the epoch.
fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    let nanos = values.map(|millis| millis.saturating_mul(NANOS_PER_MILLI));
    Arc::new(TimestampNanosecondArray::from_iter_values(nanos))
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    let mut texts = StringViewBuilder::with_capacity(values.size_hint().0);
    values.for_each(|value| texts.append_value(value));
    Arc::new(texts.finish())
}

/// Where a bid comes from.
struct Channel {
    name: String,
    url: String,
}

/// All channels, the hot ones first. They are the same in all worlds.
static CHANNELS: LazyLock<Vec<Channel>> = LazyLock::new(|| {
    let names = ["Google", "Facebook", "Baidu", "Apple"];
    let hot = (0..HOT_CHANNELS).map(|index| Channel {
        name: names[index as usize].into(),
        url: url(&mut Random::of(u64::MAX, COLD_CHANNELS + index)),
    });
    let cold = (0..COLD_CHANNELS).map(|index| {
        let random = &mut Random::of(u64::MAX, index);
        let mut url = url(random);
        if random.below(10) > 0 {
            url += &format!("&channel_id={}", i64::from((index as u32).reverse_bits() as i32).abs());
        }
        Channel { name: format!("channel-{index}"), url }
    });
    hot.chain(cold).collect()
});

fn url(random: &mut Random) -> String {
    let mut part = || random.text(5, '_');
    format!("https://www.nexmark.com/{}/{}/{}/item.htm?query=1", part(), part(), part())
}
