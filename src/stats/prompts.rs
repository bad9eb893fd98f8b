//! Beginnings of texts of many kinds, for a model to continue. Written for this project.

/// A beginning to continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// The first words of a text.
    Text(&'static str),
    /// A user's request, to be put into the model's chat format.
    Question(&'static str),
}

const PROSE: [Prompt; 10] = [
    Prompt::Text("The ferry left an hour late, and by then the fog had swallowed the harbour lights. Mira"),
    Prompt::Text("My grandfather kept three clocks in the kitchen, none of which agreed. Every evening he"),
    Prompt::Text(
        "Dear Mr. Okafor,\n\nThank you for your letter of 14 May. We have looked into the delay and",
    ),
    Prompt::Text("It was not the noise that woke the village but the silence after it."),
    Prompt::Text("\"You said you'd fix the roof before winter,\" she said, setting the lamp down. He"),
    Prompt::Text("Yesterday the city council voted to close the old bridge to cars. Residents on both sides"),
    Prompt::Text(
        "I have been a nurse for nineteen years, and there is one thing nobody tells you at the start:",
    ),
    Prompt::Text(
        "Abstract. We study how soil moisture changes the growth rate of winter wheat. Field trials",
    ),
    Prompt::Text("REVIEW: two weeks with a folding bicycle. I wanted to like it, and on flat roads"),
    Prompt::Text(
        "Once upon a time a fox and a heron shared a pond, though neither of them trusted the other.",
    ),
];

const KNOWLEDGE: [Prompt; 10] = [
    Prompt::Text("Basalt is a fine-grained volcanic rock that forms when"),
    Prompt::Text("The history of papermaking begins in China, where"),
    Prompt::Text("Photosynthesis takes place in two stages. In the first,"),
    Prompt::Text("The Peace of Westphalia (1648) ended"),
    Prompt::Text("An enzyme is a protein that speeds up a chemical reaction by"),
    Prompt::Text("Lake Baikal, in southern Siberia, is the deepest lake in the world. It"),
    Prompt::Text("In economics, opportunity cost means"),
    Prompt::Text("Jupiter has four large moons, discovered in 1610 by"),
    Prompt::Text("The violin family consists of the violin, the viola, the cello and"),
    Prompt::Text("A contract is legally binding if the following conditions are met:"),
];

const CODE: [Prompt; 10] = [
    Prompt::Text("def merge_intervals(intervals):\n    \"\"\"Merge overlapping intervals and return them sorted.\"\"\"\n"),
    Prompt::Text("use std::collections::HashMap;\n\n/// Counts the words of a text.\npub fn word_counts(text: &str) -> "),
    Prompt::Text("#include <stdio.h>\n#include <stdlib.h>\n\nstruct node {\n    int value;\n    struct node *next;\n};\n\n"),
    Prompt::Text("// Debounce a function call.\nexport function debounce(fn, delay) {\n"),
    Prompt::Text("SELECT customers.name, SUM(orders.total) AS spent\nFROM customers\n"),
    Prompt::Text("#!/usr/bin/env bash\nset -euo pipefail\n\n# Back up every directory given on the command line.\nfor "),
    Prompt::Text("package main\n\nimport (\n\t\"fmt\"\n\t\"net/http\"\n)\n\nfunc main() {\n"),
    Prompt::Text("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n  <title>Opening hours</title>\n"),
    Prompt::Text("public class Matrix {\n    private final double[][] cells;\n\n    public Matrix multiply(Matrix other) {\n"),
    Prompt::Text("{\n  \"name\": \"weather-station\",\n  \"sensors\": [\n    {\"id\": 1, \"type\": \"temperature\", "),
];

const REASONING: [Prompt; 8] = [
    Prompt::Text("Theorem. There are infinitely many primes of the form 4k + 3.\nProof. Suppose"),
    Prompt::Text(
        "Problem: A train leaves at 9:40 and covers 252 km at 72 km/h. When does it arrive?\nSolution:",
    ),
    Prompt::Text("Let f(x) = x^3 - 6x^2 + 9x. To find the local extrema, we compute the derivative"),
    Prompt::Text("12 + 35 = 47\n48 * 7 = 336\n1024 / 16 = 64\n91 - 58 = "),
    Prompt::Text("If all roses are flowers and some flowers fade quickly, does it follow that"),
    Prompt::Text("The probability of drawing two red cards in a row without putting the first one back is"),
    Prompt::Text("Step 1: measure the voltage across the resistor. Step 2:"),
    Prompt::Text(
        "\\begin{equation}\n\\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}\n\\end{equation}\n",
    ),
];

const DIALOGUE: [Prompt; 12] = [
    Prompt::Question("Can you explain how vaccines work to a ten-year-old?"),
    Prompt::Question("Write a short poem about a lighthouse in winter."),
    Prompt::Question("I have eggs, rice, spinach and half a lemon. What can I cook tonight?"),
    Prompt::Question("What is the difference between a process and a thread?"),
    Prompt::Question("Write a Python function that checks whether a string is a palindrome, and explain it."),
    Prompt::Question("Summarise the causes of the First World War in five bullet points."),
    Prompt::Question("My colleague keeps interrupting me in meetings. How should I bring it up?"),
    Prompt::Question("Translate into French: The library opens at eight and closes at noon on Saturdays."),
    Prompt::Question("A shirt costs 40 euros after a discount of 20 percent. What did it cost before?"),
    Prompt::Question("Plan a three-day trip to Lisbon for two people who like museums and the sea."),
    Prompt::Text("INTERVIEWER: When did you first realise the experiment had failed?\nDR. LINDQVIST:"),
    Prompt::Text("Anna: are you coming on saturday??\nTom: not sure yet, my shift might change\nAnna:"),
];

const LISTS: [Prompt; 6] = [
    Prompt::Text("Shopping list:\n- 2 kg potatoes\n- olive oil\n- "),
    Prompt::Text("| Country | Capital | Population |\n|---|---|---|\n| Norway | Oslo |"),
    Prompt::Text("Ten ways to save energy at home:\n1. Turn down the heating by one degree.\n2."),
    Prompt::Text("CHANGELOG\n\n## 2.4.0\n- Added: export to CSV\n- Fixed:"),
    Prompt::Text("Lentil soup\n\nIngredients (serves 4):\n250 g red lentils\n1 onion\n"),
    Prompt::Text("Q: What is the boiling point of water at sea level?\nA: 100 °C\nQ:"),
];

const LANGUAGES: [Prompt; 12] = [
    Prompt::Text("Am frühen Morgen lag noch Nebel über den Feldern, und der Briefträger"),
    Prompt::Text("La ville s'était endormie sous la neige quand le dernier train"),
    Prompt::Text("El agua es un recurso limitado. En muchas regiones"),
    Prompt::Text("O mercado abre às seis horas, e os pescadores"),
    Prompt::Text("Il pane fatto in casa richiede pochi ingredienti:"),
    Prompt::Text("Весной река вышла из берегов, и жители деревни"),
    Prompt::Text("春天来了，公园里的花都开了。孩子们"),
    Prompt::Text("昨日は雨が降っていたので、私たちは"),
    Prompt::Text("في صباح يوم الجمعة ذهبت العائلة إلى"),
    Prompt::Text("भारत में कई भाषाएँ बोली जाती हैं।"),
    Prompt::Text("De trein naar Utrecht vertrekt om kwart over acht, maar"),
    Prompt::Text("W starym domu na końcu ulicy mieszkał zegarmistrz, który"),
];

/// All prompts, their kinds taken in turn.
pub fn prompts() -> impl Iterator<Item = Prompt> {
    let kinds: [&'static [Prompt]; 7] =
        [&PROSE, &DIALOGUE, &CODE, &KNOWLEDGE, &LANGUAGES, &REASONING, &LISTS];
    let longest = kinds.iter().map(|kind| kind.len()).max().unwrap_or(0);
    (0..longest).flat_map(move |index| kinds.into_iter().filter_map(move |kind| kind.get(index).copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_many_and_distinct() {
        let all: Vec<&str> = prompts()
            .map(|prompt| match prompt {
                Prompt::Text(text) | Prompt::Question(text) => text,
            })
            .collect();
        assert_eq!(all.len(), 68);
        let distinct: std::collections::HashSet<&str> = all.iter().copied().collect();
        assert_eq!(distinct.len(), all.len());
        assert!(all.iter().all(|text| text.len() > 15 && text.len() < 200));
    }
}
