//! Every recipe of docs/cookbook.md does what the page says: its tables, files, changes and result are read from the page.

use super::harness::Scenario;

/// One fenced block: what its first line says, and its text.
type Block = (String, String);

/// The recipes: title and blocks.
fn recipes() -> Vec<(String, Vec<Block>)> {
    let page = include_str!("../../docs/cookbook.md");
    let mut recipes: Vec<(String, Vec<Block>)> = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            recipes.push((title.to_owned(), Vec::new()));
        } else if let Some(info) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            let (_, what) =
                info.split_once(' ').unwrap_or_else(|| panic!("a block that no test reads: {info}"));
            recipes.last_mut().unwrap().1.push((what.to_owned(), text.join("\n")));
        }
    }
    recipes
}

fn cook(title: &str, blocks: &[Block]) {
    let s = Scenario::new();
    let yml = s
        .project_file()
        .replace("- name: source", "- name: shop")
        .replace("- name: output", "- name: warehouse");
    s.file("trucker.yml", &yml);
    let mut query = None;
    for (what, text) in blocks {
        match what.as_str() {
            "source" => s.source.execute(text),
            "output" => s.output.execute(text),
            "changes" => {
                s.once();
                s.source.execute(text);
                s.once();
            }
            "query" => query = Some(text),
            "result" => {
                let rows = s
                    .output
                    .rows(query.take().unwrap_or_else(|| panic!("{title}: a result without a query")));
                let cell = |cell: &Option<String>| cell.clone().unwrap_or_else(|| "NULL".to_owned());
                let rows: Vec<String> =
                    rows.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>().join(" | ")).collect();
                assert_eq!(rows.join("\n"), *text, "{title}");
            }
            file => s.file(file, text),
        }
    }
    let has = |what: &str| blocks.iter().any(|(name, _)| name == what);
    assert!(["source", "output", "changes", "query", "result"].iter().all(|what| has(what)), "{title}");
}

#[test]
fn every_recipe_of_the_cookbook_does_what_the_page_says() {
    let recipes = recipes();
    assert!(recipes.len() >= 7);
    std::thread::scope(|scope| {
        for (title, blocks) in &recipes {
            let name = title.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
            let thread = std::thread::Builder::new().name(name);
            thread.spawn_scoped(scope, move || cook(title, blocks)).unwrap();
        }
    });
}
