//! `#[main]`: a child runs its task instead, and the program finishes its children behind it.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ItemFn;

use crate::outcome::Outcome;

pub fn expand(attributes: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    if !attributes.is_empty() {
        return Err(syn::Error::new_spanned(attributes, "it has no options"));
    }
    let mut function: ItemFn = syn::parse2(item)?;
    let signature = &function.sig;
    if signature.ident != "main" {
        return Err(syn::Error::new_spanned(
            &signature.ident,
            "this attribute goes on the program's `fn main`",
        ));
    }
    if let (Some(keyword), true) = (&signature.asyncness, function.attrs.is_empty()) {
        return Err(syn::Error::new(
            keyword.span,
            "an async main needs a runtime: put its attribute below this one, for example #[tokio::main]",
        ));
    }
    let report = match Outcome::of(&signature.output)?.is_result {
        true => quote! {
            |value| match value {
                ::core::result::Result::Ok(value) => ::std::process::Termination::report(value),
                ::core::result::Result::Err(error) => {
                    #[allow(unused_imports)]
                    use ::procession::__private::{ByDebug as _, ByDisplay as _};
                    ::procession::__private::report_error((&&::procession::__private::Shown(&error)).text())
                }
            }
        },
        false => quote!(::std::process::Termination::report),
    };
    let visibility = std::mem::replace(&mut function.vis, syn::Visibility::Inherited);
    Ok(quote! {
        #visibility fn main() -> ::std::process::ExitCode {
            #function
            ::procession::__private::main(main, #report)
        }

        // Where this main is not the program's, as in a test of its crate, children are not to wait for it.
        #[cfg(not(test))]
        const _: () = {
            #[::procession::__private::linkme::distributed_slice(::procession::__private::MAINS)]
            #[linkme(crate = ::procession::__private::linkme)]
            static MAIN: &str = module_path!();
        };
    })
}
