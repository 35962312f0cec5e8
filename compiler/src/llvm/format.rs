//! Elements of block formats, decoded and written as the format table says.

use super::{Cmp, Emitter, Form, Lane, Ty, Val};
use llmc_artifact::Format;
use llmc_artifact::format::{Field, FormatSpec, Lanes};
use llmc_artifact::plan::PANEL_LANES;

/// Where the bytes of one block lie.
#[derive(Clone, Copy)]
pub(super) enum Block<'c> {
    /// One after another.
    Dense {
        /// The block's first byte.
        start: Val<'c>,
    },
    /// In groups of four, those of a panel's rows in turn.
    Panel {
        /// The first byte of the panel's blocks at this place along the reduced axis.
        start: Val<'c>,
        /// Row within the panel.
        row: Val<'c>,
    },
}

impl<'c> Emitter<'c> {
    /// The address of a byte of a field; `byte` an `i64`.
    fn field_byte(&self, block: Block<'c>, (at, field): (usize, Field), byte: Val<'c>) -> Val<'c> {
        match block {
            Block::Dense { start } => self.offset(start, self.add(byte, self.int(at as i64))),
            Block::Panel { start, row } => {
                let group = field.lanes.bytes(field.count).min(4) as i64;
                let (rows, shift) = (PANEL_LANES as i64, group.trailing_zeros());
                let begin =
                    self.add(self.shl(self.ashr(byte, shift), shift + rows.trailing_zeros()), self.shl(row, shift));
                let within = self.add(begin, self.and(byte, self.int(group - 1)));
                self.offset(start, self.add(within, self.int(at as i64 * rows)))
            }
        }
    }

    /// Bytes `from..from + count` of a field as a vector; both multiples of four, or the whole field.
    fn field_bytes(&self, block: Block<'c>, place: (usize, Field), from: Val<'c>, count: u32) -> Val<'c> {
        match block {
            Block::Dense { .. } => self.load(Ty::I8, count, self.field_byte(block, place, from)),
            Block::Panel { .. } if count <= 4 => self.load(Ty::I8, count, self.field_byte(block, place, from)),
            Block::Panel { .. } => {
                let groups = count / 4;
                let mut all = self.undefined(Ty::I32, groups);
                for g in 0..groups {
                    let byte = self.add(from, self.int(4 * g as i64));
                    let group = self.load_aligned(Ty::I32, 1, self.field_byte(block, place, byte), 1);
                    all = self.insert(all, g, group);
                }
                self.bit_cast(all, Ty::I8, count)
            }
        }
    }

    /// The only element of a field of one, as f32.
    fn field_scalar(&self, block: Block<'c>, place: (usize, Field)) -> Val<'c> {
        let Lanes::Plain(dtype) = place.1.lanes else { panic!("emission: a block's scale is packed in bits") };
        let raw = self.load_aligned(Emitter::stored_type(dtype), 1, self.field_byte(block, place, self.int(0)), 1);
        self.widen_stored(dtype, raw)
    }

    /// Element `i` of a field, as an i32.
    fn field_element(&self, block: Block<'c>, place: (usize, Field), i: Val<'c>) -> Val<'c> {
        let count = place.1.count as i64;
        match place.1.lanes {
            Lanes::Plain(dtype) => {
                let byte = self.mul(i, self.int(dtype.bytes() as i64));
                let raw = self.load_aligned(Emitter::stored_type(dtype), 1, self.field_byte(block, place, byte), 1);
                self.widen_stored(dtype, raw)
            }
            Lanes::Nibbles => {
                let half = count / 2;
                let byte = self.load(Ty::I8, 1, self.field_byte(block, place, self.and(i, self.int(half - 1))));
                let high = self.compare(Cmp::Ge, i, self.int(half));
                let shift = self.select(high, self.int32(4), self.int32(0));
                self.and(self.lshr(self.zext(byte, Ty::I32), shift), self.int32(15))
            }
            Lanes::Bits => {
                let byte = self.load(Ty::I8, 1, self.field_byte(block, place, self.ashr(i, 3)));
                let bit = self.trunc(self.and(i, self.int(7)), Ty::I32);
                self.and(self.lshr(self.zext(byte, Ty::I32), bit), self.int32(1))
            }
        }
    }

    /// Elements `i..i + lanes` of a field, as i32; `i` a multiple of `lanes`, which is 16 or the whole block.
    fn field_vector(&self, block: Block<'c>, place: (usize, Field), i: Val<'c>, lanes: u32) -> Val<'c> {
        let count = place.1.count as u32;
        match place.1.lanes {
            Lanes::Plain(dtype) => {
                assert_eq!(dtype.bytes(), 1, "emission: quants of more than one byte");
                self.widen_stored(dtype, self.field_bytes(block, place, i, lanes))
            }
            Lanes::Nibbles if lanes == count => {
                let bytes = self.field_bytes(block, place, self.int(0), count / 2);
                let low = self.and(bytes, self.like_int(bytes, 15));
                let high = self.lshr(bytes, self.like_int(bytes, 4));
                self.zext(self.shuffle(low, high, 0..count), Ty::I32)
            }
            Lanes::Nibbles => {
                let bytes = self.field_bytes(block, place, self.and(i, self.int(count as i64 / 2 - 1)), lanes);
                let high = self.compare(Cmp::Ge, i, self.int(count as i64 / 2));
                let shift = self.select(high, self.constant_i8(4), self.constant_i8(0));
                let nibbles = self.and(self.lshr(bytes, shift), self.like_int(bytes, 15));
                self.zext(nibbles, Ty::I32)
            }
            Lanes::Bits => {
                let bytes = self.field_bytes(block, place, self.int(0), count / 8);
                let word = self.bit_cast(bytes, Ty::I32, 1);
                assert_eq!(count, 32, "emission: a block of other than 32 bits");
                let shifted = self.lshr(word, self.trunc(i, Ty::I32));
                let lanes_of = self.splat(shifted, lanes);
                let each = self.lshr(lanes_of, self.int_lanes(Ty::I32, 0..lanes as i64));
                self.and(each, self.like_int(each, 1))
            }
        }
    }

    fn constant_i8(&self, n: i64) -> Val<'c> {
        self.like_int(self.zero(Ty::I8, 1), n)
    }

    /// `scale * (quant - zero) + offset`, with the roundings of [`FormatSpec::decode`].
    fn block_value(&self, spec: &FormatSpec, block: Block<'c>, part: impl Fn(&str) -> Val<'c>) -> Val<'c> {
        let mut quant = part(spec.quant);
        if let Some(high) = spec.high {
            quant = self.add(quant, self.shl(part(high), 4));
        }
        let quant = self.int_to_float(self.sub(quant, self.like_int(quant, spec.zero as i64)), Ty::F32);
        let one = |name: &str| self.field_scalar(block, spec.field(name).expect("a format names its own fields"));
        let scaled = spec.scale.map_or(quant, |d| self.mul(one(d), quant));
        spec.offset.map_or(scaled, |m| self.add(scaled, one(m)))
    }

    /// Elements `i` of one block, as f32; `i` is uniform, or consecutive from a multiple of the lanes.
    pub(super) fn decode_block(&self, format: Format, block: Block<'c>, i: Lane<'c>, lanes: u32) -> Val<'c> {
        let spec = format.spec();
        self.block_value(spec, block, |name| {
            let place = spec.field(name).expect("a format names its own fields");
            match i.form {
                Form::Uniform => self.field_element(block, place, i.value),
                _ => self.field_vector(block, place, i.value, lanes),
            }
        })
    }

    /// Whether [`Emitter::decode_block`] can take these elements at once.
    pub(super) fn decodes_at_once(format: Format, i: Lane<'c>, lanes: u32) -> bool {
        let whole = lanes as usize == format.block();
        let part = lanes == 16 && format.block() == 32;
        i.form == Form::Affine(1) && i.multiple.is_multiple_of(lanes as u64) && (whole || part)
    }

    /// Element `i` of block number `block` of a row of a weight in panels of rows of `reduce` elements, as f32.
    pub fn panel_element(
        &self,
        format: Format,
        (weight, reduce): (Val<'c>, u64),
        row: Val<'c>,
        block: Val<'c>,
        i: Val<'c>,
    ) -> Val<'c> {
        let lanes = self.int(PANEL_LANES as i64);
        let (panel, row) = self.lane_div_rem(Lane::uniform(row), Lane::uniform(lanes), 1);
        let blocks = self.int((reduce / format.block() as u64) as i64);
        let at = self.add(self.mul(panel.value, blocks), block);
        let start = self.offset(weight, self.mul(at, self.int((format.block_bytes() * PANEL_LANES as usize) as i64)));
        match format.plain() {
            Some(dtype) => {
                let ty = Emitter::stored_type(dtype);
                self.widen_stored(dtype, self.load(ty, 1, self.element(start, ty, row.value)))
            }
            None => self.decode_block(format, Block::Panel { start, row: row.value }, Lane::uniform(i), 1),
        }
    }

    /// Element `i` of block number `block` of dense elements, as f32.
    pub fn dense_element(&self, format: Format, array: Val<'c>, block: Val<'c>, i: Val<'c>) -> Val<'c> {
        let start = self.offset(array, self.mul(block, self.int(format.block_bytes() as i64)));
        match format.plain() {
            Some(dtype) => self.widen_stored(dtype, self.load(Emitter::stored_type(dtype), 1, start)),
            None => self.decode_block(format, Block::Dense { start }, Lane::uniform(i), 1),
        }
    }

    /// Quantises a block of f32 and writes it: `d = max|x| / 127`, `q = x / d` rounded to nearest even,
    /// `s = d * sum(q)`; a block of zeros has `d = 0`. `x` has as many lanes as the block.
    ///
    /// # Panics
    /// For a format without signed bytes as quants: only activations are quantised while a model runs.
    pub fn encode_block(&self, format: Format, start: Val<'c>, x: Val<'c>) {
        let spec = format.spec();
        let signed_bytes =
            spec.field(spec.quant).is_some_and(|(_, f)| f.lanes == Lanes::Plain(llmc_artifact::DType::I8));
        assert!(signed_bytes && spec.high.is_none(), "emission: nothing quantises to {format} while a model runs");
        let largest = self.fold_lanes(self.abs(x), |a, b| self.max(a, b));
        let d = self.mul(largest, self.f32(1.0 / 127.0));
        let nonzero = self.compare(Cmp::Gt, d, self.f32(0.0));
        let inverse = self.select(nonzero, self.div(self.f32(1.0), d), self.f32(0.0));
        let (_, q) = self.round(self.clamp(self.mul(x, inverse), -127.0, 127.0));
        let sum = self.fold_lanes(q, |a, b| self.add(a, b));
        for field in spec.fields {
            let (at, _) = spec.field(field.name).expect("a format names its own fields");
            let place = self.offset(start, self.int(at as i64));
            let value = match field.name {
                name if Some(name) == spec.scale => d,
                name if name == spec.quant => {
                    self.store(place, self.trunc(q, Ty::I8));
                    continue;
                }
                _ => self.mul(d, self.int_to_float(sum, Ty::F32)),
            };
            let Lanes::Plain(dtype) = field.lanes else { panic!("emission: a packed scale") };
            self.store(place, self.narrow_stored(dtype, value));
        }
    }
}
