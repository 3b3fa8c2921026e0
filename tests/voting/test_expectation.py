"""Shares are printed (`pytest -s`) beside what they are measured on; the floors only catch a rule that broke."""

import json
import time

import pytest

from its_proxy.voting.expectation import asks_for_answer, expects_answer, is_housekeeping

CHAT = """\
Hello, who are you?
Can you write a short poem about autumn?
What is the difference between a virus and a bacterium?
Explain recursion to a ten-year-old.
How do I reverse a list in Python?
Please translate "good morning, my friend" into French.
Summarise the plot of Hamlet in two sentences.
What should I cook tonight with chickpeas and spinach?
Write a cover letter for a junior data analyst position.
Why is the sky blue?
How can I sleep better when I work night shifts?
Give me five ideas for a birthday party.
What is the capital of Australia?
Who wrote One Hundred Years of Solitude?
I feel sad today, can you cheer me up?
How long should I boil an egg?
How much does it cost to rent a flat in Berlin?
How old is the universe?
How far is the moon?
What are the main causes of the First World War?
Compare Postgres and MySQL for a small web shop.
Fix this: def f(x) return x + 1
What does the error "list index out of range" mean?
Why does my Python 3.11 code print [1, 2, 3] twice?
Recommend me a good book about the Roman Empire.
Is it safe to take ibuprofen together with alcohol?
Can you help me plan a 7-day trip to Japan in April with 2 kids?
Write a SQL query that lists the top 10 customers by revenue.
What happened in 1989 in Eastern Europe?
Draft an e-mail to my landlord about the broken heating.
How do vaccines work?
Tell me a joke about programmers.
What is the best way to learn the piano as an adult?
Rewrite this sentence in a more formal tone: we gotta talk about the budget.
What is quantum entanglement?
Should I buy a used car from 2015 with 120,000 km or a new one?
My cat does not eat any more, what can I do?
How do I configure nginx as a reverse proxy on port 8080?
Give me feedback on my essay about climate change.
What is the meaning of the word "serendipity"?
Which laptop would you recommend for under 1,000 euros?
What is the value of friendship?
How do I calculate a percentage in Excel?
Find me a synonym for "happy".
Describe the life cycle of a star.
What is the average lifespan of a dog?
Can you evaluate the strengths of this business plan?
Who won the World Cup in 2014 and who scored the goal?
Write a haiku of 5, 7 and 5 syllables about rain.
What are the side effects of antibiotics?
Please proofread: Their going to the park at 5 pm.
How can I solve conflicts in my team?
Turn this list into a table: apples 3, pears 4, plums 5.
What time zone should I use for a meeting between Paris and New York?
Explain the difference between TCP and UDP.
How do I install Docker on Ubuntu 24.04?
What is the difference between HTTP/1.1 and HTTP/2?
Imagine you are a pirate and greet me.
Is 37.5 degrees a fever?
Thanks, that was very helpful! Can you go on?
""".splitlines()

# As the usual chat interfaces word their errands: a title, tags, follow-ups, search queries for a conversation.
ERRANDS = [
    "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n### Guidelines:\n- ...",
    "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history, along with 1-3 subtopics.",
    "### Task:\nSuggest 3-5 relevant follow-up questions or prompts that the user might naturally ask next.",
    "### Task:\nAnalyze the chat history to determine the necessity of generating search queries, in that language.",
    "### Task:\nYou are an autocompletion system. Continue the text in `<text>` based on the completion type.",
    "### Task:\nGenerate a detailed prompt for am image generation task based on the given language and context.",
    "Create a concise, 3-5 word phrase with an emoji as a title for the previous query.",
    "Provide a concise, 5-word-or-less title for the conversation, using its same language, with no punctuation.",
    "Based on the chat history, give this conversation a name.\nKeep it short - 10 characters max, no quotes.",
]


@pytest.mark.parametrize("errand", ERRANDS)
def test_a_clients_errand_is_no_question_of_a_person(errand):
    conversation = "\n### Chat History:\nUSER: How many eggs are 3 and 4?\nASSISTANT: \\boxed{7}\n"
    assert is_housekeeping(errand + conversation)


@pytest.mark.parametrize("question", [*CHAT, "What is a good title for my novel?", "Give this hotel a name."])
def test_a_persons_question_is_no_errand(question):
    assert not is_housekeeping(question)


def test_an_errand_quoted_deep_in_a_question_does_not_make_it_one():
    assert not is_housekeeping("How many words has this prompt? " + "x " * 400 + ERRANDS[0])


@pytest.mark.parametrize(
    "question",
    [
        "Is it blue? Put your final answer within \\boxed{}.",
        "Where is it? Answer only with the city.",
        "Which one?\n\nA) Rome\nB) Paris\nC) Oslo",
        "Which one?\n(A) Rome\n(B) Paris",
        "What is 17 + 25?",
        "what's 12/4?",
        "3 * 4 = ?",
        "How many eggs are three eggs and four eggs?",
        "A train covers 120 km in 90 minutes. What is its average speed?",
        "Solve $x^2 = 2$.",
        "Janet\u2019s ducks lay 16 eggs. She eats three. How much does she have?",
    ],
)
def test_a_question_with_a_short_answer_shows_it(question):
    assert expects_answer(question)


@pytest.mark.parametrize(
    "question",
    [
        "",
        "Do you offer 24/7 support?",
        "Can you say that in 3-5 sentences?",
        "What does A) mean in a contract?",
        "Is the difference between HTTP/1.1 and HTTP/2 important?",
    ],
)
def test_numbers_and_letters_alone_ask_for_nothing(question):
    assert not expects_answer(question)


def test_only_words_about_the_answer_count_in_a_system_prompt():
    assert asks_for_answer("Reason step by step, and put your final answer within \\boxed{}.")
    assert not asks_for_answer("You are a careful tutor. Solve 3 problems a day. How many? A) 1\nB) 2")


def test_ordinary_chat_is_rarely_taken_for_a_question_with_a_short_answer():
    taken = [question for question in CHAT if expects_answer(question)]
    print(f"\nordinary chat taken for an answerable question: {len(taken)} of {len(CHAT)}: {taken}")
    assert len(taken) <= 3


@pytest.mark.parametrize(
    ("file", "field", "floor"),
    [("gsm8k-test", "question", 0.98), ("math500-test", "problem", 0.95), ("aime24-test", "problem", 0.95)],
)
def test_benchmark_questions_are_recognised(test_data, file, field, floor):
    lines = (test_data / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)[field] for line in lines]
    share = sum(map(expects_answer, questions)) / len(questions)
    print(f"\n{file}: {share:.1%} of {len(questions)} questions are seen to have a short answer")
    assert share >= floor
    assert not any(map(is_housekeeping, questions))


@pytest.mark.parametrize(
    "piece",
    ["a", "\n", "\t\n", "1", "1.", "1 + ", "1-", "$", "$a ", "what is ", "what is a ", "what's a-b'c ", "A) ", "\\"],
)
@pytest.mark.parametrize("end", ["", "?"])
def test_a_hostile_text_costs_no_more_than_its_length(piece, end):
    text = (piece * 100_000)[:100_000] + end
    spent = []
    for _ in range(3):  # the best of three: a busy machine is not the text's fault
        start = time.process_time()
        expects_answer(text)
        is_housekeeping(text)
        spent.append(time.process_time() - start)
    assert min(spent) < 0.1
