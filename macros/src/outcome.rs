//! What a function returns: a value, or a `Result` of one, told apart by how it is written.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{GenericArgument, PathArguments, ReturnType, Type};

/// What is known of a return type.
pub struct Outcome {
    /// The type of the value: of a `Result` its first argument.
    pub value: TokenStream,
    /// Whether it is a `Result`.
    pub is_result: bool,
}

impl Outcome {
    pub fn of(output: &ReturnType) -> syn::Result<Self> {
        let ReturnType::Type(_, written) = output else {
            return Ok(Self::value(quote!(())));
        };
        match bare(written) {
            // It never returns, so no value of it is ever seen.
            Type::Never(_) => Ok(Self::value(quote!(()))),
            Type::ImplTrait(_) => Err(syn::Error::new_spanned(
                written,
                "what is returned is sent to another process, which must know its type: write it down",
            )),
            Type::Reference(_) => Err(syn::Error::new_spanned(
                written,
                "what is returned is sent to another process: return an owned value (a String for &str)",
            )),
            Type::Path(path) => match path.path.segments.last() {
                Some(last) if last.ident == "Result" => Ok(Self {
                    value: first_argument(&last.arguments).unwrap_or_else(|| quote!(())),
                    is_result: true,
                }),
                _ => Ok(Self::value(quote_spanned!(written.span()=> #written))),
            },
            _ => Ok(Self::value(quote_spanned!(written.span()=> #written))),
        }
    }

    fn value(value: TokenStream) -> Self {
        Self {
            value,
            is_result: false,
        }
    }

    /// Turns a call into a `Result<value, String>`.
    pub fn wrap(&self, call: &TokenStream) -> TokenStream {
        match self.is_result {
            true => quote!(::procession::__private::outcome(#call)),
            false => quote!(::core::result::Result::Ok(#call)),
        }
    }
}

/// Without the parentheses and invisible groups that macros put around types.
fn bare(written: &Type) -> &Type {
    match written {
        Type::Paren(inner) => bare(&inner.elem),
        Type::Group(inner) => bare(&inner.elem),
        other => other,
    }
}

fn first_argument(arguments: &PathArguments) -> Option<TokenStream> {
    let PathArguments::AngleBracketed(arguments) = arguments else {
        return None;
    };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::Type(written) => Some(quote!(#written)),
        _ => None,
    })
}
