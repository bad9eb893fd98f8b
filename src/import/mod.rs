//! Foreign inputs: Hugging Face folders, and importance matrices of llama.cpp.
//!
//! In: a path and [`Limits`]. Out: [`Folder`], with the metadata and the tensors (ggml names, dimensions, rows as floats
//! on demand) that stock converters and runtimes have for the same model; the plain GGUF file of it
//! ([`write_plain`]); and [`imatrix`]. [`Input`] is either such a folder or a GGUF model. Weights are mapped, never held:
//! a folder costs the size of its tokenizer in memory.
//!
//! Depends on `gguf` alone. It may not compute with a model, nor print. Every count, offset and length of a file is
//! checked against limits and the file's real size before anything is allocated or indexed, and every shape against
//! the configuration when the folder is opened; every error ([`ImportError`]) names the file, and the tensor or key,
//! what was expected and what was found.
//!
//! Folders that are turned down: LoRA adapters, and architectures that are not in [`supported`]. A new one is a file
//! in `architecture/` and a line in its registry.

mod architecture;
mod checkpoint;
mod config;
mod error;
mod files;
mod folder;
mod header;
pub mod imatrix;
mod input;
mod limits;
mod model_card;
mod naming;
mod plain;
mod plan;
mod scale;
mod tensor;
mod tokenizer;

pub use architecture::supported;
pub use error::ImportError;
pub use folder::{Folder, Options};
pub use input::Input;
pub use limits::Limits;
pub use naming::refuse_foreign_kinds;
pub use plain::{plain_tensor_type, write_plain};
pub use tensor::ImportedTensor;
