//! A reader over bytes that may end anywhere.

use crate::Error;

/// A position in the bytes of one file. Every read names what it reads, for the error's sake.
pub(crate) struct Cursor<'a> {
    pub(crate) file: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(file: &'a str, bytes: &'a [u8]) -> Self {
        Self { file, bytes, at: 0 }
    }

    pub(crate) fn position(&self) -> u64 {
        self.at as u64
    }

    pub(crate) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    pub(crate) fn take(&mut self, n: u64, what: impl Fn() -> String) -> Result<&'a [u8], Error> {
        if n > self.remaining() {
            return Err(Error::Truncated {
                file: self.file.to_owned(),
                what: what(),
                offset: self.position(),
                needed: n,
                available: self.remaining(),
            });
        }
        // n is at most the remaining length, so it fits in usize.
        let slice = &self.bytes[self.at..self.at + n as usize];
        self.at += n as usize;
        Ok(slice)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        what: impl Fn() -> String,
    ) -> Result<[u8; N], Error> {
        let slice = self.take(N as u64, what)?;
        let mut array = [0; N];
        array.copy_from_slice(slice);
        Ok(array)
    }

    pub(crate) fn u32(&mut self, what: impl Fn() -> String) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u64(&mut self, what: impl Fn() -> String) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A string with its length before it.
    pub(crate) fn string(&mut self, what: impl Fn() -> String) -> Result<String, Error> {
        let len = self.u64(&what)?;
        let bytes = self.take(len, &what)?;
        match str::from_utf8(bytes) {
            Ok(s) => Ok(s.to_owned()),
            Err(_) => Err(Error::Utf8 { file: self.file.to_owned(), what: what() }),
        }
    }

    /// A count of things of at least `min_bytes` each: what cannot fit in the rest of the file is
    /// refused before anything is allocated for it.
    pub(crate) fn count(
        &mut self,
        min_bytes: u64,
        what: impl Fn() -> String,
    ) -> Result<usize, Error> {
        let found = self.u64(&what)?;
        let max = self.remaining() / min_bytes;
        if found > max {
            return Err(Error::Count { file: self.file.to_owned(), what: what(), found, max });
        }
        Ok(found as usize)
    }
}
