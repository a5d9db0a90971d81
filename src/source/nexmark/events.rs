//! What happens in the auction house: each event, from its number.

use super::random::{Padding, Random};
use crate::source::generated::nanos;

/// How events that follow one another are spread over the group they are out of order in.
pub(super) const STRIDE: u64 = 953;

/// So many events, from a person on, belong together: the person, [`AUCTIONS`] and bids.
const EPOCH: u64 = 50;
const AUCTIONS: u64 = 3;

/// The ids of persons and of auctions start with this.
const FIRST_ID: i64 = 1000;

/// One in so many persons or auctions is a hot one.
const HOT: u64 = 100;
/// How many of the last persons sell and bid, and how many of the last auctions bids are for.
const ACTIVE_PERSONS: u64 = 1000;
const OPEN_AUCTIONS: u64 = 100;
/// How far sellers, bidders and auctions may be ahead of those that exist.
const LEAD: u64 = 10;
/// Auctions are open, on average, until so many have been opened after them.
const AUCTIONS_IN_FLIGHT: u64 = 100;

/// The average sizes of events in bytes, which `extra` makes up for.
const PERSON_BYTES: u64 = 200;
const AUCTION_BYTES: u64 = 500;
const BID_BYTES: u64 = 100;
/// What a bid has without `extra`.
const BID_FIXED_BYTES: u64 = 32;

/// The channels with URLs of their own, which have half of the bids, and how many others there are.
pub(super) const HOT_CHANNELS: u64 = 4;
pub(super) const COLD_CHANNELS: u64 = 10_000;

/// The types of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Person,
    Auction,
    Bid,
}

impl Kind {
    pub(super) fn named(name: &str) -> Option<Self> {
        [Kind::Person, Kind::Auction, Kind::Bid]
            .into_iter()
            .find(|kind| name.eq_ignore_ascii_case(kind.name()))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Person => "person",
            Kind::Auction => "auction",
            Kind::Bid => "bid",
        }
    }

    fn of(id: u64) -> Self {
        match id % EPOCH {
            0 => Kind::Person,
            1..=AUCTIONS => Kind::Auction,
            _ => Kind::Bid,
        }
    }
}

/// A world: what the events are, how fast they follow one another, and how much out of order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Events {
    pub(super) seed: u64,
    /// Events in a second of event time.
    pub(super) per_second: u64,
    /// The event time of the first event, in milliseconds since the epoch.
    pub(super) start_ms: i64,
    /// Events come out of order within groups of so many.
    pub(super) group: u64,
}

#[derive(Debug)]
pub(super) struct Person {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) email_address: String,
    pub(super) credit_card: String,
    pub(super) city: &'static str,
    pub(super) state: &'static str,
    pub(super) extra: Padding,
}

#[derive(Debug)]
pub(super) struct Auction {
    pub(super) id: i64,
    pub(super) item_name: String,
    pub(super) description: String,
    pub(super) initial_bid: i64,
    pub(super) reserve: i64,
    /// In milliseconds since the epoch.
    pub(super) expires: i64,
    pub(super) seller: i64,
    pub(super) category: i64,
    pub(super) extra: Padding,
}

#[derive(Debug)]
pub(super) struct Bid {
    pub(super) auction: i64,
    pub(super) bidder: i64,
    pub(super) price: i64,
    /// Which channel: the hot ones first.
    pub(super) channel: u64,
    pub(super) extra: Padding,
}

impl Events {
    /// The id of the event that comes as number `number`, if it is one of `kind`.
    pub(super) fn id(&self, number: u64, kind: Kind) -> Option<u64> {
        let place = number % self.group;
        let id = number - place + place * STRIDE % self.group;
        (Kind::of(id) == kind).then_some(id)
    }

    /// The event time of event `id`, in milliseconds since the epoch.
    pub(super) fn time_ms(&self, id: u64) -> i64 {
        let later = u128::from(id) * 1000 / u128::from(self.per_second);
        self.start_ms.saturating_add(i64::try_from(later).unwrap_or(i64::MAX))
    }

    /// Whether the times of all events before number `end` can be told, and when auctions expire.
    pub(super) fn can_count_to(&self, end: u64) -> bool {
        let last = end.saturating_add(self.group).saturating_add(3 * AUCTIONS_IN_FLIGHT * EPOCH);
        i64::try_from(last).is_ok() && nanos(self.time_ms(last)).is_some()
    }

    fn random(&self, id: u64) -> Random {
        Random::of(self.seed, id)
    }

    /// A person who is active when `last` is the last one who has registered.
    fn active_person(random: &mut Random, last: u64) -> u64 {
        let active = (last + 1).min(ACTIVE_PERSONS);
        last + 1 - active + random.below(active + LEAD)
    }

    pub(super) fn person(&self, id: u64) -> Person {
        let random = &mut self.random(id);
        let name = format!("{} {}", random.one_of(&FIRST_NAMES), random.one_of(&LAST_NAMES));
        let email_address = format!("{}@{}.com", random.text(7, ' '), random.text(5, ' '));
        let digits: Vec<String> = (0..4).map(|_| format!("{:04}", random.below(10_000))).collect();
        let credit_card = digits.join(" ");
        let (city, state) = (random.one_of(&CITIES), random.one_of(&STATES));
        let size = 8 + name.len() + email_address.len() + credit_card.len() + city.len() + state.len();
        let extra = random.padding(PERSON_BYTES.saturating_sub(size as u64));
        let id = FIRST_ID + (id / EPOCH) as i64;
        Person { id, name, email_address, credit_card, city, state, extra }
    }

    pub(super) fn auction(&self, id: u64) -> Auction {
        let random = &mut self.random(id);
        let last_person = id / EPOCH;
        let seller = match random.below(4) {
            0 => Self::active_person(random, last_person),
            _ => last_person / HOT * HOT,
        };
        let category = 10 + random.below(5) as i64;
        let initial_bid = random.price();
        let reserve = initial_bid + random.price();
        let horizon = self.time_ms(id + AUCTIONS_IN_FLIGHT * EPOCH / AUCTIONS) - self.time_ms(id);
        let open_ms = 1 + random.below(2 * horizon.max(0) as u64) as i64;
        let (item_name, description) = (random.text(20, ' '), random.text(100, ' '));
        let size = 8 * 7 + item_name.len() + description.len();
        let extra = random.padding(AUCTION_BYTES.saturating_sub(size as u64));
        Auction {
            id: FIRST_ID + (id / EPOCH * AUCTIONS + id % EPOCH - 1) as i64,
            item_name,
            description,
            initial_bid,
            reserve,
            expires: self.time_ms(id).saturating_add(open_ms),
            seller: FIRST_ID + seller as i64,
            category,
            extra,
        }
    }

    pub(super) fn bid(&self, id: u64) -> Bid {
        let random = &mut self.random(id);
        let (last_person, last_auction) = (id / EPOCH, id / EPOCH * AUCTIONS + AUCTIONS - 1);
        let auction = match random.below(2) {
            0 => {
                let open = last_auction.min(OPEN_AUCTIONS);
                last_auction - open + random.below(open + 1 + LEAD)
            }
            _ => last_auction / HOT * HOT,
        };
        let bidder = match random.below(4) {
            0 => Self::active_person(random, last_person),
            _ => last_person / HOT * HOT + 1,
        };
        let price = random.price();
        let channel = match random.below(2) {
            0 => random.below(HOT_CHANNELS),
            _ => HOT_CHANNELS + random.below(COLD_CHANNELS),
        };
        let extra = random.padding(BID_BYTES - BID_FIXED_BYTES);
        Bid { auction: FIRST_ID + auction as i64, bidder: FIRST_ID + bidder as i64, price, channel, extra }
    }
}

const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: [&str; 9] =
    ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];
const CITIES: [&str; 10] = [
    "Phoenix",
    "Los Angeles",
    "San Francisco",
    "Boise",
    "Portland",
    "Bend",
    "Redmond",
    "Seattle",
    "Kent",
    "Cheyenne",
];
const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn events(group: u64) -> Events {
        Events { seed: 7, per_second: 1_000, start_ms: 1_000_000, group }
    }

    fn ids(events: &Events, kind: Kind, end: u64) -> Vec<u64> {
        (0..end).filter_map(|number| events.id(number, kind)).collect()
    }

    #[test]
    fn of_fifty_events_one_is_a_person_and_three_are_auctions() {
        let events = events(1);
        let count = |kind| ids(&events, kind, 5_000).len();
        assert_eq!((count(Kind::Person), count(Kind::Auction), count(Kind::Bid)), (100, 300, 4_600));
        let persons = ids(&events, Kind::Person, 5_000).into_iter().map(|id| events.person(id).id);
        assert!(persons.eq(1_000..1_100));
        let auctions = ids(&events, Kind::Auction, 5_000).into_iter().map(|id| events.auction(id).id);
        assert!(auctions.eq(1_000..1_300));
        assert_eq!((events.time_ms(0), events.time_ms(4_999)), (1_000_000, 1_004_999));
    }

    #[test]
    fn out_of_order_all_events_come_within_their_group() {
        let events = events(100);
        let mut all = BTreeSet::new();
        for number in 0..1_000 {
            let of = [Kind::Person, Kind::Auction, Kind::Bid].map(|kind| events.id(number, kind));
            let ids: Vec<u64> = of.into_iter().flatten().collect();
            assert_eq!((ids.len(), ids[0] / 100), (1, number / 100));
            all.insert(ids[0]);
        }
        assert_eq!(all.len(), 1_000);
        assert_ne!(events.id(1, Kind::Bid), events.id(1, Kind::Person).or(Some(1)));
    }

    #[test]
    fn bids_are_for_auctions_that_are_open_or_soon_will_be() {
        let events = events(1);
        let (mut hot_auctions, mut hot_bidders) = (0, 0);
        let bids = ids(&events, Kind::Bid, 50_000);
        for id in &bids {
            let bid = events.bid(*id);
            let (last_auction, last_person) = ((id / 50 * 3 + 2) as i64, (id / 50) as i64);
            let (auction, bidder) = (bid.auction - 1_000, bid.bidder - 1_000);
            assert!((0..=last_auction + 10).contains(&auction), "{bid:?}");
            assert!((0..=last_person + 11).contains(&bidder), "{bid:?}");
            hot_auctions += i32::from(auction == last_auction / 100 * 100);
            hot_bidders += i32::from(bidder == last_person / 100 * 100 + 1);
        }
        let part = |count: i32| f64::from(count) / bids.len() as f64;
        assert!((0.49..0.52).contains(&part(hot_auctions)), "{hot_auctions}");
        assert!((0.74..0.77).contains(&part(hot_bidders)), "{hot_bidders}");
    }

    #[test]
    fn auctions_expire_after_they_were_opened() {
        let events = events(1);
        for id in ids(&events, Kind::Auction, 50_000) {
            let (auction, opened) = (events.auction(id), events.time_ms(id));
            // 1,666 events are 1,666 ms, and auctions are open for up to twice as long.
            assert!((opened + 1..=opened + 3_333).contains(&auction.expires), "{auction:?}");
            assert!((10..15).contains(&auction.category) && auction.reserve > auction.initial_bid);
        }
    }

    #[test]
    fn the_end_of_time_is_seen_coming() {
        let slow = Events { seed: 0, per_second: 1, start_ms: 0, group: 1 };
        assert!(slow.can_count_to(9_000_000_000) && !slow.can_count_to(9_300_000_000));
        let fast = Events { per_second: u64::MAX, ..slow };
        assert!(!fast.can_count_to(u64::MAX));
    }
}
