//! What several tests share: simulated disks, injected faults, oracles, queries in a temporary folder.

pub mod faults;
pub mod sim_disk;
