//! Beginnings of texts of many kinds, for a model to continue. Written for this project.
//!
//! Passages of about a thousand bytes, so that half of a sequence of 512 tokens is a person's text and the other half
//! the model's own. A quarter of the sequences begin in the spaced format of tokenised corpora (`word @-@ word`,
//! `<unk>`), which public benchmarks of language models use: a model meets it there and nowhere else.

/// A beginning to continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// The first part of a text.
    Text(&'static str),
    /// A user's request, to be put into the model's chat format.
    Question(&'static str),
}

/// Between the passages of a file.
const SEPARATOR: &str = "\n\n\n";

const QUESTIONS: [&str; 12] = [
    "Can you explain how vaccines work to a ten-year-old?",
    "Write a Python function that checks whether a string is a palindrome, and explain it.",
    "My colleague keeps interrupting me in meetings. How should I bring it up?",
    "Summarise the causes of the First World War in five bullet points.",
    "A shirt costs 40 euros after a discount of 20 percent. What did it cost before?",
    "Write a short poem about a lighthouse in winter.",
    "What is the difference between a process and a thread?",
    "Translate into French: The library opens at eight and closes at noon on Saturdays.",
    "I have eggs, rice, spinach and half a lemon. What can I cook tonight?",
    "Plan a three-day trip to Lisbon for two people who like museums and the sea.",
    "Rewrite this politely: I need the report today, not next week.",
    "Who was Hypatia of Alexandria, and why is she remembered?",
];

/// Kinds of beginnings.
#[derive(Clone, Copy)]
enum Kind {
    Spaced,
    Prose,
    Fiction,
    Question,
    Answer,
    Code,
    Technical,
    Language,
}

/// The kinds of sixteen sequences in a row.
const SCHEDULE: [Kind; 16] = {
    use Kind::*;
    [
        Spaced, Prose, Question, Spaced, Fiction, Prose, Code, Spaced, Answer, Prose, Language, Spaced,
        Technical, Fiction, Prose, Code,
    ]
};

impl Kind {
    fn passages(self) -> Vec<Prompt> {
        let text = match self {
            Kind::Question => return QUESTIONS.into_iter().map(Prompt::Question).collect(),
            Kind::Spaced => include_str!("passages/spaced.txt"),
            Kind::Prose => include_str!("passages/prose.txt"),
            Kind::Fiction => include_str!("passages/fiction.txt"),
            Kind::Answer => include_str!("passages/answers.txt"),
            Kind::Code => include_str!("passages/code.txt"),
            Kind::Technical => include_str!("passages/technical.txt"),
            Kind::Language => include_str!("passages/languages.txt"),
        };
        text.split(SEPARATOR).map(Prompt::Text).collect()
    }
}

/// Rounds of the schedule before [`prompts`] ends.
const ROUNDS: usize = 16;

/// Prompts in the order of the schedule; those of a kind take turns.
pub fn prompts() -> Vec<Prompt> {
    let passages = SCHEDULE.map(Kind::passages);
    let kinds = SCHEDULE.map(|kind| kind as usize);
    let mut used = [0usize; 8];
    let mut all = Vec::with_capacity(ROUNDS * SCHEDULE.len());
    for _ in 0..ROUNDS {
        for (list, kind) in passages.iter().zip(kinds) {
            let Some(next) = used.get_mut(kind) else { continue };
            all.extend(list.get(*next % list.len().max(1)).copied());
            *next += 1;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_follow_the_schedule() {
        let all = prompts();
        assert_eq!(all.len(), ROUNDS * SCHEDULE.len());
        let text = |prompt: &Prompt| match *prompt {
            Prompt::Text(text) | Prompt::Question(text) => text,
        };
        // The first four rounds, the sequences of a conversion at default settings, repeat nothing.
        let distinct: std::collections::HashSet<&str> = all.iter().take(64).map(text).collect();
        assert_eq!(distinct.len(), 64);
        assert!(all.iter().all(|prompt| (15..3000).contains(&text(prompt).len())), "no empty passage");
        let spaced = all.iter().filter(|prompt| text(prompt).contains(" , ")).count();
        assert!(spaced * 5 > all.len(), "{spaced} of {}", all.len());
    }
}
