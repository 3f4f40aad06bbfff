//! Memory that the kernel may write to a device directly from: aligned to a page.
//!
//! O_DIRECT wants address, offset and length aligned to the device's block. A `Vec` promises none of that, so a buffer
//! here is a `Vec` one page longer than asked for, used from its first page boundary on. Safe code only.

/// Alignment of every block device in use: 512 or 4096 bytes.
pub const ALIGN: usize = 4096;

/// A page-aligned buffer of fixed capacity.
#[derive(Debug)]
pub struct Buffer {
    storage: Vec<u8>,
    start: usize,
    capacity: usize,
}

impl Buffer {
    /// A buffer of at least `capacity` bytes, rounded up to whole pages, filled with zeros.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.next_multiple_of(ALIGN);
        let storage = vec![0; capacity + ALIGN];
        let start = storage.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { storage, start, capacity }
    }

    /// The first `len` bytes; fewer when the buffer is smaller.
    #[must_use]
    pub fn get(&self, len: usize) -> &[u8] {
        self.storage.get(self.start..self.start + len.min(self.capacity)).unwrap_or_default()
    }

    /// The first `len` bytes, to be filled; fewer when the buffer is smaller.
    pub fn get_mut(&mut self, len: usize) -> &mut [u8] {
        self.storage.get_mut(self.start..self.start + len.min(self.capacity)).unwrap_or_default()
    }

    /// Usable bytes.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_and_as_long_as_asked() {
        for len in [1, 4096, 4097, 1 << 20] {
            let mut buffer = Buffer::new(len);
            assert_eq!(buffer.get(len).as_ptr().align_offset(ALIGN), 0);
            assert_eq!(buffer.get_mut(len).len(), len);
            assert!(buffer.get(usize::MAX).len() >= len);
        }
    }
}
