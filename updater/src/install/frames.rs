//! A set of frames of one image: a bit for each, however large the image.

use std::sync::{Mutex, PoisonError};

/// Frames that something else has to bring.
#[derive(Debug, Default)]
pub struct FrameSet {
    words: Mutex<Vec<u64>>,
}

impl FrameSet {
    /// Adds a frame.
    pub fn add(&self, number: u64) {
        let (word, bit) = (usize::try_from(number / 64).unwrap_or(usize::MAX), number % 64);
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        if let Some(word) = words.get_mut(word) {
            *word |= 1 << bit;
        }
    }

    /// Whether it is in.
    #[must_use]
    pub fn has(&self, number: u64) -> bool {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let word = usize::try_from(number / 64).ok().and_then(|word| words.get(word).copied());
        word.is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// How many are in.
    #[must_use]
    pub fn len(&self) -> u64 {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether none is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::FrameSet;

    #[test]
    fn holds_what_was_added() {
        let set = FrameSet::default();
        assert!(set.is_empty() && !set.has(0) && !set.has(1 << 40));
        for number in [0, 63, 64, 1000, 64] {
            set.add(number);
        }
        assert_eq!(set.len(), 4);
        assert!(set.has(63) && set.has(1000) && !set.has(1) && !set.has(999));
    }
}
