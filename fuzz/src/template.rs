//! A Jinja template, as project files are: rendered by us, who keep track of lines, and by minijinja alone.

use minijinja::{Environment, UndefinedBehavior, Value};
use trucker::config::template::{Place, render};

/// Keeping track of lines changes no text, and every place in it has one in the template.
pub fn check(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_fuel(Some(20_000));
    env.add_global("lines", "one\ntwo\nthree");
    let plain = env.render_named_str("t", source, ());
    let (plain, rendered) = match (plain, render(&env, "t", source, Value::UNDEFINED)) {
        (Ok(plain), Ok(rendered)) => (plain, rendered),
        // Anchors take steps too.
        (plain, rendered)
            if is_out_of_steps(&plain) || rendered.is_err() && plain.is_ok() && long(source) =>
        {
            return;
        }
        (plain, rendered) => return assert_eq!(plain.is_ok(), rendered.is_ok(), "{plain:?} {rendered:?}"),
    };
    assert_eq!(plain, rendered.text);
    let lines = source.split('\n').count();
    for (line, text) in rendered.text.split('\n').enumerate() {
        for column in [1, text.chars().count() + 1] {
            let place = rendered.template_place(Place { line: line + 1, column });
            assert!((1..=lines).contains(&place.line), "{place:?} of {lines} lines");
            assert!(place.column >= 1);
        }
    }
}

fn is_out_of_steps(plain: &Result<String, minijinja::Error>) -> bool {
    plain.as_ref().is_err_and(|error| error.kind() == minijinja::ErrorKind::OutOfFuel)
}

fn long(source: &str) -> bool {
    source.contains("for") || source.contains("macro")
}
