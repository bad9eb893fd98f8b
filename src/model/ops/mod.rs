//! Arithmetic of the forward and backward pass: matrix products, norms, rotations, attention, activations.
//!
//! Everything works on row-major batches of tokens and splits its work into pieces that depend on the shapes
//! alone, each computed by sequential code, so results are the same bits for any number of threads. Sums are taken
//! in fixed lanes and no operation is fused, so the instruction set does not change element-wise results either.

/// Defines a function whose body is compiled for the best instruction set of the machine, chosen at run time.
///
/// What the body calls must be `#[inline(always)]`, or it is compiled for the least one.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$life:lifetime>($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty $body:block) => {
        $(#[$meta])*
        $vis fn $name<$life>($($arg: $ty),*) -> $ret {
            struct Operation<$life> {
                $($arg: $ty),*
            }
            impl<$life> pulp::WithSimd for Operation<$life> {
                type Output = $ret;

                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) -> $ret {
                    let Self { $($arg),* } = self;
                    $body
                }
            }
            pulp::Arch::new().dispatch(Operation { $($arg),* })
        }
    };
}

mod attention;
mod attention_gradient;
mod elementwise;
mod gradient;
mod matmul;
mod reduce;
mod rope;

pub use attention::{attend, AttentionShape, KeyValues};
pub use attention_gradient::attend_gradient;
pub use elementwise::{add_assign, add_bias, multiply_gelu, multiply_silu, rms_norm, rms_norm_in_place};
pub use gradient::{
    multiply_gelu_gradient, multiply_silu_gradient, rms_norm_gradient, rms_norm_gradient_in_place,
};
pub use matmul::{add_product, multiply_transposed, Beside, DenseMatrix, MatrixProduct};
pub use reduce::{argmax, divergence_sum, exponential_sum, scaled_exponentials, widen};
pub use rope::{Pairing, Rope, RopeScaling};

/// Rows that one task of an element-wise operation takes.
const ROWS_PER_TASK: usize = 64;
