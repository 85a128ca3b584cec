// SPDX-License-Identifier: GPL-2.0

//! Bio requests as futures.
