//! `#[process]`: an `impl Run for …` block gets what is the same in all of them, and its type is registered; `#[thread]`: the same, and
//! it is not.
//!
//! `Run` is the one of `procession::process` or that of `procession::thread`: whichever the program has imported.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Generics, ImplItem, ItemImpl, Type};

use crate::outcome::Outcome;
use crate::task::given_name;

/// What the type is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Process,
    Thread,
}

pub fn expand(kind: Kind, attributes: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let name = given_name(attributes)?;
    let mut block: ItemImpl = syn::parse2(item)?;
    let run = block.trait_.as_ref().and_then(|(not, path, _)| {
        let last = path.segments.last();
        let is_run = not.is_none() && last.is_some_and(|last| last.ident == "Run");
        is_run.then(|| path.clone())
    });
    let Some(run) = run else {
        return Err(syn::Error::new_spanned(
            &block.self_ty,
            "this attribute goes on `impl Run for …`, with Run from procession::process or procession::thread",
        ));
    };
    let Generics { params, .. } = &block.generics;
    if !params.is_empty() && kind == Kind::Process {
        return Err(syn::Error::new_spanned(
            params,
            "a process cannot be generic: another process finds it by name, and a name says nothing of type arguments",
        ));
    }
    let runs = block.items.iter().find_map(|item| match item {
        ImplItem::Fn(function) if function.sig.ident == "run" => Some(&function.sig),
        _ => None,
    });
    let Some(signature) = runs else {
        return Err(syn::Error::new_spanned(
            &block.self_ty,
            "there is no run here: write `fn run(self) { … }`",
        ));
    };
    if let Some(keyword) = &signature.asyncness {
        return Err(syn::Error::new(
            keyword.span,
            "run cannot be async: a process or thread of its own has no runtime; start one in it and block on it",
        ));
    }

    let subject = block.self_ty.clone();
    let outcome = Outcome::of(&signature.output)?;
    let value = &outcome.value;
    let returned = match &signature.output {
        syn::ReturnType::Default => quote!(()),
        // Stable Rust has no name for the type of what never returns, and a method may not return less than its trait says.
        syn::ReturnType::Type(_, written) if matches!(**written, Type::Never(_)) => {
            return Err(syn::Error::new_spanned(
                written,
                "write `fn run(self)`: one that never returns is one too",
            ));
        }
        syn::ReturnType::Type(_, written) => quote!(#written),
    };
    let call = outcome.wrap(&quote!(<Self as #run>::run(self)));
    let name = name.map_or_else(
        || quote!(concat!(module_path!(), "::", stringify!(#subject))),
        |name| quote!(#name),
    );
    block
        .items
        .push(syn::parse_quote!(type Return = #returned;));
    block.items.push(syn::parse_quote!(type Output = #value;));
    block
        .items
        .push(syn::parse_quote!(const NAME: &'static str = #name;));
    block.items.push(syn::parse_quote! {
        #[allow(clippy::unit_arg)]
        fn call(self) -> ::core::result::Result<Self::Output, ::std::string::String> {
            #call
        }
    });

    if kind == Kind::Thread {
        return Ok(quote!(#block));
    }
    let conditions: Vec<_> = block
        .attrs
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg"))
        .collect();
    Ok(quote! {
        #block

        #(#conditions)*
        const _: () = {
            #[::procession::__private::linkme::distributed_slice(::procession::__private::TASKS)]
            #[linkme(crate = ::procession::__private::linkme)]
            static ENTRY: ::procession::registry::Entry = ::procession::registry::Entry::new(
                <#subject as #run>::NAME,
                |arguments| <#subject as #run>::run_encoded(arguments),
            );
        };
    })
}
