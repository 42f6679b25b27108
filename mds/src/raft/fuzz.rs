//! Fuzz function of the messages between members. The tests drive it with 100 000 inputs, cargo-fuzz with any number.

use super::message as m;

/// Reads bytes of another member as each kind of message. What is taken must be written and read again as the same.
/// Says whether any kind took them.
///
/// # Panics
/// When a message does not survive that: it would mean something else to the next member it is sent to.
#[must_use]
pub fn message(bytes: &[u8]) -> bool {
    let taken = [
        round_trip(bytes, m::decode_append, m::encode_append),
        round_trip(bytes, m::decode_append_answer, |answer| m::encode_append_answer(&answer)),
        round_trip(bytes, m::decode_vote, |vote| m::encode_vote(&vote)),
        round_trip(bytes, m::decode_vote_answer, |answer| m::encode_vote_answer(&answer)),
        round_trip(bytes, m::decode_snapshot_part, |(part, state)| m::encode_snapshot_part(&part, &state)),
        round_trip(bytes, m::decode_snapshot_answer, |vote| m::encode_snapshot_answer(&vote)),
    ];
    taken.contains(&true)
}

fn round_trip<T>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, m::MessageError>,
    encode: impl Fn(T) -> Vec<u8>,
) -> bool {
    let Ok(message) = decode(bytes) else { return false };
    let written = encode(message);
    let again = decode(&written).unwrap_or_else(|error| panic!("what was taken is refused: {error}"));
    assert_eq!(encode(again), written);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::message::samples;
    use rt::random::Rng;

    fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
        for _ in 0..=rng.below(3) {
            if bytes.is_empty() {
                return;
            }
            let at = rng.below(bytes.len() as u64) as usize;
            match rng.below(6) {
                0 => bytes[at] ^= 1 << rng.below(8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5) as usize],
                2 => bytes.truncate(at),
                3 => bytes.extend_from_within(at..),
                // The longest number there is, in place of a short one.
                4 => {
                    let longest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
                    bytes.splice(at..=at, longest);
                }
                _ => drop(bytes.remove(at)),
            }
        }
    }

    #[test]
    fn a_hundred_thousand_damaged_messages_never_panic() {
        let good = samples();
        assert!(good.iter().all(|bytes| message(bytes)));
        let mut rng = Rng::from_seed(3);
        let (mut taken, mut refused) = (0, 0);
        for n in 0..100_000 {
            let mut bytes = good[n % good.len()].clone();
            mutate(&mut rng, &mut bytes);
            *(if message(&bytes) { &mut taken } else { &mut refused }) += 1;
        }
        assert!(taken > 5000 && refused > 5000, "both ways are gone: {taken} taken, {refused} refused");
    }

    #[test]
    fn a_last_index_that_has_no_next_is_refused() {
        // Vote 1 of node 1; the entry before has the highest index there is; one blank entry with the same.
        let id = [0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        let mut bytes = vec![0x0a, 4, 0x08, 1, 0x10, 1];
        bytes.extend([0x12, 11]);
        bytes.extend(id);
        bytes.extend([0x1a, 13, 0x0a, 11]);
        bytes.extend(id);
        assert_eq!(m::decode_append(&bytes).err(), Some(m::MessageError::Order));
    }
}
