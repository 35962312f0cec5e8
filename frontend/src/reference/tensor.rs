//! Dense values, and tensors of a checkpoint as dense values.

use crate::graph::{AxisId, TensorView};
use llmc_artifact::TensorData;

/// A value's elements over named axes. Integers and truth values (0 and 1) are held as reals, exactly.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// The axes, outermost first.
    pub axes: Vec<AxisId>,
    /// Their lengths.
    pub shape: Vec<usize>,
    /// The elements, the last axis fastest.
    pub data: Vec<f64>,
}

impl Tensor {
    /// A value without axes.
    pub fn scalar(x: f64) -> Tensor {
        Tensor { axes: vec![], shape: vec![], data: vec![x] }
    }

    /// Elements in the order of `axes`; `lengths` has an entry for every axis of the model.
    ///
    /// # Panics
    /// When the number of elements is not the product of the lengths.
    pub fn new(axes: Vec<AxisId>, lengths: &[usize], data: Vec<f64>) -> Tensor {
        let shape: Vec<_> = axes.iter().map(|a| lengths[a.0 as usize]).collect();
        assert_eq!(data.len(), shape.iter().product::<usize>(), "reference: elements of {axes:?}");
        Tensor { axes, shape, data }
    }

    /// Elements between one index of an axis and the next; 0 for an axis that the value does not have.
    pub fn stride(&self, axis: AxisId) -> usize {
        match self.axes.iter().position(|a| *a == axis) {
            Some(at) => self.shape[at + 1..].iter().product(),
            None => 0,
        }
    }

    /// The element at a point, which has an index for every axis of the model.
    pub fn at(&self, point: &[usize]) -> f64 {
        let offset = self.axes.iter().zip(&self.shape).fold(0, |o, (a, n)| o * n + point[a.0 as usize]);
        self.data[offset]
    }

    /// The same value with its axes in another order.
    ///
    /// # Panics
    /// When `order` is not a permutation of the axes.
    pub fn ordered(&self, order: &[AxisId]) -> Tensor {
        let shape: Vec<_> = order
            .iter()
            .map(|a| self.shape[self.axes.iter().position(|b| b == a).expect("reference: an order of a value's axes")])
            .collect();
        let strides: Vec<_> = order.iter().map(|a| self.stride(*a)).collect();
        let mut data = Vec::with_capacity(self.data.len());
        let mut index = vec![0; shape.len()];
        for _ in 0..self.data.len() {
            data.push(self.data[index.iter().zip(&strides).map(|(i, s)| i * s).sum::<usize>()]);
            advance(&mut index, &shape);
        }
        Tensor { axes: order.to_vec(), shape, data }
    }
}

/// The next index in row-major order; back to zeros after the last.
pub(super) fn advance(index: &mut [usize], shape: &[usize]) {
    for (i, n) in index.iter_mut().zip(shape).rev() {
        *i += 1;
        if *i < *n {
            return;
        }
        *i = 0;
    }
}

/// A tensor of the checkpoint, its dimensions split into axes, in the file's order.
///
/// # Errors
/// A sentence when the data has no such tensor, or not as many bytes as its shape and format say.
pub fn decode(view: &TensorView, lengths: &[usize], from: &dyn TensorData) -> Result<Tensor, String> {
    let axes: Vec<_> = view.stacked.into_iter().chain(view.dims.iter().flatten().copied()).collect();
    let elements: u64 = view.info.shape.iter().product();
    let mut data = Vec::with_capacity(elements as usize * view.names.len());
    for name in &view.names {
        let bytes = from.tensor_bytes(name).ok_or_else(|| format!("there is no tensor `{name}`"))?;
        if view.info.format.bytes(elements) != Some(bytes.len() as u64) {
            return Err(format!("tensor `{name}` has {} bytes, not those of {:?}", bytes.len(), view.info));
        }
        let spec = view.info.format.spec();
        let mut elements = vec![0.0; spec.block];
        for block in bytes.chunks_exact(view.info.format.block_bytes()) {
            spec.decode_block(block, &mut elements);
            data.extend(elements.iter().map(|x| *x as f64));
        }
    }
    Ok(Tensor::new(axes, lengths, data))
}
