// SPDX-License-Identifier: GPL-2.0

//! The tests. Each is named by the contract or the interleaving that it pins.

#[cfg(not(loom))]
mod combinators;
#[cfg(not(loom))]
mod contracts;
#[cfg(loom)]
mod lock_models;
#[cfg(loom)]
mod request_models;
#[cfg(not(loom))]
mod requests;
#[cfg(loom)]
mod retirement_models;
#[cfg(not(loom))]
mod rwsem_property;
#[cfg(not(loom))]
mod stress;
#[cfg(loom)]
mod sync_models;
#[cfg(loom)]
mod task_models;
