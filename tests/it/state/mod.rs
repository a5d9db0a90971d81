//! State: tables against the simplest table there can be, and their files.

use tidemill::state::hash_key;

mod large;
mod spilling;
mod store;

/// A key of 16 bytes whose hash is that of all such keys: its first half cancels the seed out, so that
/// the second half is multiplied by 0.
fn colliding_key(number: u8) -> Vec<u8> {
    // The seed that `hash_key` gives, and foldhash's `ARBITRARY3`.
    const SEED: u64 = 0x7469_6465 ^ 0x082e_fa98_ec4e_6c89;
    [SEED.rotate_right(16).to_ne_bytes(), [number; 8]].concat()
}

/// A key for a number: of every four, one whose hash is its own, if the others are to collide.
fn key(number: u8, collide: bool) -> Vec<u8> {
    if collide && !number.is_multiple_of(4) { colliding_key(number) } else { vec![number; 3] }
}

#[test]
fn keys_that_are_to_collide_do() {
    let hashes: Vec<u64> = (0..=255).map(|number| hash_key(&colliding_key(number))).collect();
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "foldhash has changed: {hashes:x?}");
}
