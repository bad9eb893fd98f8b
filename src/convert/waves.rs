//! Work on many tensors at a time, as far as memory goes.

use super::options::MOST_BYTES_AT_ONCE;
use super::plan::{Action, PlannedTensor};
use super::quantize_tensor::{goes_by_parts, PART_WEIGHTS};
use crate::quantize::Method;
use rayon::prelude::*;

/// Bytes that quantizing one tensor holds: covariance, its factor in both precisions, weights, target, integers. Of
/// large matrices (see [`goes_by_parts`]) only a part, and the integers of the whole in little more than a byte each.
pub(super) fn tensor_memory(tensor: &PlannedTensor, method: Method) -> u64 {
    let Action::Quantize { method: own, .. } = tensor.action else { return 0 };
    let (rows, columns) = (tensor.rows() as u64, tensor.columns() as u64);
    let (square, matrix) = (columns.saturating_mul(columns), rows.saturating_mul(columns));
    let held = if goes_by_parts(tensor, own.unwrap_or(method)) {
        (18 * PART_WEIGHTS as u64).saturating_add(matrix.saturating_mul(3))
    } else {
        matrix.saturating_mul(18)
    };
    // Coded matrices that wait for the others of the tensor.
    let coded = if tensor.matrices() > 1 { tensor.weights() } else { 0 };
    square.saturating_mul(26).saturating_add(held).saturating_add(coded)
}

/// Does `work` on all items, in parallel, and returns the results in their order.
///
/// Items go in waves whose `memory` in bytes together stays within [`MOST_BYTES_AT_ONCE`]; one that needs more makes a wave
/// of its own, and is parallel within. Without waves a thread that waits for the parallel part of its own tensor would start
/// another one, and memory would have no bound.
pub(super) fn in_waves<T: Sync, R: Send, E: Send>(
    items: &[T],
    memory: impl Fn(&T) -> u64,
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let mut done = Vec::with_capacity(items.len());
    let mut rest = items;
    while !rest.is_empty() {
        let mut held = 0u64;
        let fits = rest.iter().take_while(|item| {
            held = held.saturating_add(memory(item));
            held <= MOST_BYTES_AT_ONCE
        });
        let (wave, after) = rest.split_at(fits.count().max(1));
        done.extend(wave.par_iter().map(&work).collect::<Result<Vec<R>, E>>()?);
        rest = after;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::plan::Role;
    use crate::gguf::{GgmlType, TensorSpec};
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn memory_is_bounded_and_the_order_kept() {
        let tensor = |columns: u64| PlannedTensor {
            info: TensorSpec { name: "t".into(), dims: vec![columns, 64], ty: GgmlType::F16 },
            stored_bytes: 0,
            action: Action::Quantize { role: Role::Matrix, bits: None, method: None },
        };
        let tensors: Vec<PlannedTensor> =
            [4096, 8192, 16384, 8192, 8192, 2048, 2048].into_iter().map(tensor).collect();
        let (held, most) = (AtomicU64::new(0), AtomicU64::new(0));
        let work = |tensor: &PlannedTensor| -> Result<u64, ()> {
            let bytes = tensor_memory(tensor, Method::Trellis);
            most.fetch_max(held.fetch_add(bytes, Ordering::SeqCst) + bytes, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(5));
            held.fetch_sub(bytes, Ordering::SeqCst);
            Ok(tensor.info.columns())
        };
        let memory = |tensor: &&PlannedTensor| tensor_memory(tensor, Method::Trellis);
        let references: Vec<&PlannedTensor> = tensors.iter().collect();
        let done = in_waves(&references, memory, |tensor| work(tensor)).unwrap();
        assert_eq!(done, [4096, 8192, 16384, 8192, 8192, 2048, 2048]);
        let largest = tensor_memory(&tensors[2], Method::Trellis);
        assert!(most.into_inner() <= largest.max(MOST_BYTES_AT_ONCE));
        assert!(in_waves(&references, memory, |_| Err::<(), u8>(7)) == Err(7));
    }
}
