//! Descriptions of tensors in global memory for `cp.async.bulk.tensor`.
//!
//! On a GPU the driver makes the 128 bytes (`cuTensorMapEncodeTiled`) and nobody documents them. Here they are laid out as
//! below, so that a kernel finds them where it would find the driver's: in a parameter of 128 bytes aligned to 64, or in
//! constant or global memory. A map of the driver's is refused, since it does not start with [`MAGIC`].
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | [`MAGIC`] |
//! | 8..16 | address of the first element |
//! | 16..56 | elements along each of 5 axes, innermost first |
//! | 56..88 | bytes from one index to the next along the axes after the innermost |
//! | 88..98 | elements of a box along each axis |
//! | 98, 99, 100 | bytes of an element, number of axes, [`Swizzle`] |

/// What a map starts with.
pub const MAGIC: [u8; 8] = *b"PTX-TMAP";
/// Bytes of a map.
pub const BYTES: usize = 128;
/// Axes that a tensor can have.
const AXES: usize = 5;

/// Which 16 bytes of a box lie where in shared memory: the bits of the address above bit 3 are xor-ed with those
/// above bit 6, so many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    /// As in the tensor.
    None,
    /// Within 32 bytes: one bit.
    B32,
    /// Within 64 bytes: two bits.
    B64,
    /// Within 128 bytes: three bits.
    B128,
}

impl Swizzle {
    /// All of them, by their number in a map.
    pub const ALL: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];

    /// The one within so many bytes; any other number is none.
    pub fn of_span(bytes: Option<u64>) -> Swizzle {
        let found = Swizzle::ALL.into_iter().find(|s| *s != Swizzle::None && Some(s.span()) == bytes);
        found.unwrap_or(Swizzle::None)
    }

    /// Bits that are changed.
    pub const fn bits(self) -> u32 {
        match self {
            Swizzle::None => 0,
            Swizzle::B32 => 1,
            Swizzle::B64 => 2,
            Swizzle::B128 => 3,
        }
    }

    /// Bytes among which 16 change places.
    pub const fn span(self) -> u64 {
        16 << self.bits()
    }

    /// Where a byte of shared memory goes.
    pub const fn apply(self, address: u64) -> u64 {
        address ^ ((address >> 7 & ((1 << self.bits()) - 1)) << 4)
    }
}

/// A tensor, and the boxes of it that are copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Where the first element is.
    pub address: u64,
    /// Bytes of an element.
    pub element: u8,
    /// Elements along each axis, innermost first.
    pub sizes: Vec<u64>,
    /// Bytes from one index to the next along each axis after the innermost.
    pub strides: Vec<u64>,
    /// Elements of a box along each axis.
    pub tile: Vec<u16>,
    /// How a box lies in shared memory.
    pub swizzle: Swizzle,
}

impl TensorMap {
    /// The map's bytes.
    ///
    /// # Errors
    /// What a GPU's driver would refuse.
    pub fn encode(&self) -> Result<[u8; BYTES], String> {
        self.check()?;
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.address.to_le_bytes());
        for (i, size) in self.sizes.iter().enumerate() {
            bytes[16 + 8 * i..24 + 8 * i].copy_from_slice(&size.to_le_bytes());
        }
        for (i, stride) in self.strides.iter().enumerate() {
            bytes[56 + 8 * i..64 + 8 * i].copy_from_slice(&stride.to_le_bytes());
        }
        for (i, tile) in self.tile.iter().enumerate() {
            bytes[88 + 2 * i..90 + 2 * i].copy_from_slice(&tile.to_le_bytes());
        }
        let swizzle = Swizzle::ALL.iter().position(|s| *s == self.swizzle).unwrap_or(0);
        bytes[98..101].copy_from_slice(&[self.element, self.sizes.len() as u8, swizzle as u8]);
        Ok(bytes)
    }

    /// The map of these bytes.
    ///
    /// # Errors
    /// When they are not one.
    pub fn decode(bytes: &[u8; BYTES]) -> Result<TensorMap, String> {
        if bytes[..8] != MAGIC {
            return Err("these bytes are not a tensor map of the simulator".into());
        }
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let (axes, swizzle) = (bytes[99] as usize, Swizzle::ALL.get(bytes[100] as usize).copied());
        let (1..=AXES, Some(swizzle)) = (axes, swizzle) else { return Err("a damaged tensor map".into()) };
        let map = TensorMap {
            address: word(8),
            element: bytes[98],
            sizes: (0..axes).map(|i| word(16 + 8 * i)).collect(),
            strides: (1..axes).map(|i| word(48 + 8 * i)).collect(),
            tile: (0..axes).map(|i| u16::from_le_bytes([bytes[88 + 2 * i], bytes[89 + 2 * i]])).collect(),
            swizzle,
        };
        map.check()?;
        Ok(map)
    }

    /// Bytes of a box.
    pub fn tile_bytes(&self) -> u64 {
        self.tile.iter().map(|n| *n as u64).product::<u64>() * self.element as u64
    }

    /// Bytes of a box's row.
    pub fn row_bytes(&self) -> u64 {
        self.tile[0] as u64 * self.element as u64
    }

    fn check(&self) -> Result<(), String> {
        let axes = self.sizes.len();
        if !(1..=AXES).contains(&axes) || self.strides.len() != axes - 1 || self.tile.len() != axes {
            return Err(format!("{axes} axes, {} strides, {} sizes of a box", self.strides.len(), self.tile.len()));
        }
        if !matches!(self.element, 1 | 2 | 4 | 8) {
            return Err(format!("elements of {} bytes", self.element));
        }
        if !self.address.is_multiple_of(16) {
            return Err(format!("a tensor at {:#x}, which is not a multiple of 16", self.address));
        }
        if let Some(size) = self.sizes.iter().find(|n| **n == 0 || **n > 1 << 32) {
            return Err(format!("an axis of {size} elements"));
        }
        if let Some(stride) = self.strides.iter().find(|n| **n % 16 != 0 || **n >= 1 << 40) {
            return Err(format!("a stride of {stride} bytes, which is not a multiple of 16 below 2^40"));
        }
        if let Some(size) = self.tile.iter().find(|n| **n == 0 || **n > 256) {
            return Err(format!("a box of {size} elements along an axis; 1 to 256 can be"));
        }
        let row = self.row_bytes();
        if !row.is_multiple_of(16) {
            return Err(format!("a box whose rows have {row} bytes, which is not a multiple of 16"));
        }
        if self.swizzle != Swizzle::None && row > self.swizzle.span() {
            return Err(format!("a box whose rows have {row} bytes, swizzled within {}", self.swizzle.span()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> TensorMap {
        TensorMap {
            address: 0x100,
            element: 2,
            sizes: vec![100, 7, 3],
            strides: vec![208, 1456],
            tile: vec![64, 4, 1],
            swizzle: Swizzle::B128,
        }
    }

    #[test]
    fn maps_are_read_back() {
        let map = map();
        assert_eq!(TensorMap::decode(&map.encode().unwrap()), Ok(map));
        assert!(TensorMap::decode(&[0; BYTES]).unwrap_err().contains("not a tensor map"));
    }

    #[test]
    fn what_the_driver_refuses_is_refused() {
        let damaged: [fn(&mut TensorMap); 6] = [
            |m| m.address = 8,
            |m| m.strides[0] = 200,
            |m| m.tile[0] = 65,
            |m| m.tile[0] = 72,
            |m| m.tile[1] = 257,
            |m| m.sizes[2] = 0,
        ];
        for damage in damaged {
            let mut map = map();
            damage(&mut map);
            assert!(map.encode().is_err(), "{map:?}");
        }
    }

    #[test]
    fn sixteen_bytes_change_places_within_their_span() {
        for swizzle in Swizzle::ALL {
            let mut places: Vec<u64> = (0..1024).map(|a| swizzle.apply(a)).collect();
            assert!(places.iter().enumerate().all(|(a, b)| a as u64 / swizzle.span() == b / swizzle.span()));
            places.sort_unstable();
            assert_eq!(places, (0..1024).collect::<Vec<_>>());
        }
        assert_eq!(Swizzle::B128.apply(3 * 128 + 5 * 16 + 7), 3 * 128 + (5 ^ 3) * 16 + 7);
        assert_eq!(Swizzle::B64.apply(2 * 128 + 16), 2 * 128 + (1 ^ 2) * 16);
    }
}
