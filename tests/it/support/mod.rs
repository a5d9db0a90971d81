//! What several tests share: simulated disks, injected faults, oracles, queries in a temporary folder.

pub mod committed;
pub mod counting_store;
pub mod events;
pub mod faults;
pub mod harness;
pub mod oracle;
pub mod outcome;
pub mod probe;
pub mod sim_disk;
pub mod sim_query;
