//! Reading and writing fixed little-endian fields of a block whose length was checked before.

/// Copies `field` to `offset` of `bytes`.
pub(crate) fn put(bytes: &mut [u8], offset: usize, field: &[u8]) {
    bytes[offset..offset + field.len()].copy_from_slice(field);
}

/// Takes fixed-width fields from the front of a block. The caller has checked that the block is long enough.
pub(crate) struct BytesReader<'a> {
    bytes: &'a [u8],
}

impl<'a> BytesReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> BytesReader<'a> {
        BytesReader { bytes }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.bytes.split_at(N);
        self.bytes = rest;
        field.try_into().expect("split_at gave N bytes")
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    pub(crate) fn u128(&mut self) -> u128 {
        u128::from_le_bytes(self.take())
    }
}
