// SPDX-License-Identifier: GPL-2.0

//! Attributes of the `kernel` crate. On the host a value is made first and then put where it stays,
//! so that pinned fields are fields like others.

use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// Takes the `#[pin]` attributes out of a structure.
#[proc_macro_attribute]
pub fn pin_data(_args: TokenStream, item: TokenStream) -> TokenStream {
    without_pin(item)
}

/// Marks a table of functions, of which the host has no use.
#[proc_macro_attribute]
pub fn vtable(_args: TokenStream, item: TokenStream) -> TokenStream {
    item
}

fn without_pin(stream: TokenStream) -> TokenStream {
    let mut out = TokenStream::new();
    let mut tokens = stream.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(hash)
                if hash.as_char() == '#' && tokens.peek().is_some_and(is_pin) =>
            {
                tokens.next();
            }
            TokenTree::Group(group) => {
                let mut inner = Group::new(group.delimiter(), without_pin(group.stream()));
                inner.set_span(group.span());
                out.extend([TokenTree::Group(inner)]);
            }
            other => out.extend([other]),
        }
    }
    out
}

fn is_pin(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Group(group)
        if group.delimiter() == Delimiter::Bracket && group.stream().to_string() == "pin")
}
