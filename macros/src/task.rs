//! `#[task]`: a function becomes a value of a type of its own, with the traits by which another process finds and runs it.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, FnArg, ItemFn, LitStr, Signature, Type};

use crate::outcome::Outcome;

pub fn expand(attributes: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let name = given_name(attributes)?;
    let function: ItemFn = syn::parse2(item)?;
    check(&function.sig)?;

    let ident = &function.sig.ident;
    let visibility = &function.vis;
    let arguments = arguments(&function.sig)?;
    let values: Vec<_> = (0..arguments.len())
        .map(|index| format_ident!("argument_{index}"))
        .collect();
    let outcome = Outcome::of(&function.sig.output)?;
    let value = &outcome.value;
    let output = &function.sig.output;
    let call = outcome.wrap(&quote!(#ident(#(#values),*)));
    let name = name.map_or_else(
        || quote!(concat!(module_path!(), "::", stringify!(#ident))),
        |name| quote!(#name),
    );
    let conditions: Vec<_> = with_names(&function.attrs, &["cfg"]).collect();
    let shown: Vec<_> = with_names(&function.attrs, &["doc", "deprecated"]).collect();
    let mut inner = function.clone();
    inner.vis = syn::Visibility::Inherited;
    inner.attrs.retain(|attribute| {
        !["cfg", "doc", "deprecated"]
            .iter()
            .any(|name| attribute.path().is_ident(name))
    });

    Ok(quote! {
        #(#conditions)*
        #(#shown)*
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy)]
        #visibility struct #ident;

        // In here `ident` is the type outside, and the function itself: they are in different namespaces. So the function can
        // call itself, and its module's path is the one that was written.
        #(#conditions)*
        #[allow(deprecated)]
        const _: () = {
            #inner

            impl ::core::ops::Deref for #ident {
                type Target = fn(#(#arguments),*) #output;

                fn deref(&self) -> &Self::Target {
                    const FUNCTION: fn(#(#arguments),*) #output = #ident;
                    &FUNCTION
                }
            }

            impl ::procession::Task for #ident {
                type Args = (#(#arguments,)*);
                type Output = #value;
                const NAME: &'static str = #name;

                #[allow(unreachable_code, clippy::unit_arg, clippy::unused_unit)]
                fn call(
                    self,
                    (#(#values,)*): Self::Args,
                ) -> ::core::result::Result<Self::Output, ::std::string::String> {
                    #call
                }
            }
        };

        // And in here it is the value.
        #(#conditions)*
        #[allow(deprecated)]
        const _: () = {
            #[::procession::__private::linkme::distributed_slice(::procession::__private::TASKS)]
            #[linkme(crate = ::procession::__private::linkme)]
            static ENTRY: ::procession::registry::Entry = ::procession::registry::Entry::new(
                <#ident as ::procession::Task>::NAME,
                |arguments| ::procession::__private::run_task(#ident, arguments),
            );
        };
    })
}

/// What stands in `name = "…"`.
pub fn given_name(attributes: TokenStream) -> syn::Result<Option<LitStr>> {
    let mut given = None;
    let parser = syn::meta::parser(|meta| {
        if !meta.path.is_ident("name") {
            return Err(meta.error("unknown option: there is only name = \"…\""));
        }
        let name: LitStr = meta.value()?.parse()?;
        if name.value().is_empty() {
            return Err(syn::Error::new_spanned(name, "a name cannot be empty"));
        }
        given = Some(name);
        Ok(())
    });
    syn::parse::Parser::parse2(parser, attributes)?;
    Ok(given)
}

fn check(signature: &Signature) -> syn::Result<()> {
    let refuse = |span: Span, why: &str| Err(syn::Error::new(span, why));
    if let Some(keyword) = &signature.asyncness {
        return refuse(
            keyword.span,
            "a task cannot be async: a process of its own has no runtime; start one in the function and block on it",
        );
    }
    if let Some(keyword) = &signature.unsafety {
        return refuse(
            keyword.span,
            "a task cannot be unsafe: nobody could promise in another process what it asks for",
        );
    }
    if let Some(abi) = &signature.abi {
        return refuse(abi.span(), "a task is a Rust function");
    }
    if let Some(dots) = &signature.variadic {
        return refuse(dots.span(), "a task has a fixed number of arguments");
    }
    if !signature.generics.params.is_empty() {
        return refuse(
            signature.generics.span(),
            "a task cannot be generic: another process finds it by name, and a name says nothing of type arguments; write one \
             task for each type, which calls the generic function",
        );
    }
    Ok(())
}

fn arguments(signature: &Signature) -> syn::Result<Vec<TokenStream>> {
    let each = signature.inputs.iter().map(|input| match input {
        FnArg::Receiver(receiver) => Err(syn::Error::new_spanned(
            receiver,
            "a method cannot be a task; for a type with a run() method, see #[procession::process]",
        )),
        FnArg::Typed(argument) => match &*argument.ty {
            Type::Reference(reference) => Err(syn::Error::new_spanned(
                reference,
                "an argument is sent to another process: take an owned value (a String for &str, a Vec for a slice)",
            )),
            Type::ImplTrait(written) => Err(syn::Error::new_spanned(
                written,
                "an argument is sent to another process, which must know its type: write it down",
            )),
            written => Ok(quote_spanned!(written.span()=> #written)),
        },
    });
    each.collect()
}

fn with_names<'a>(
    attributes: &'a [Attribute],
    names: &'a [&str],
) -> impl Iterator<Item = &'a Attribute> {
    let is_one = |attribute: &&Attribute| names.iter().any(|name| attribute.path().is_ident(name));
    attributes.iter().filter(is_one)
}
