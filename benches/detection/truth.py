"""The questions that say what an adapter did to its base: the truth of the detection study.

No gate sees them, and no threshold is chosen on them. They are made from lists and sentences of this file, by rule, and share no question
with the packs of finetest. `write(folder)` writes one scenario file for each of their categories.
"""

import json
import random

CAPITALS = {
    "Portugal": "Lisbon", "Greece": "Athens", "Sweden": "Stockholm", "Norway": "Oslo", "Finland": "Helsinki", "Poland": "Warsaw", "Austria": "Vienna",
    "Hungary": "Budapest", "Ireland": "Dublin", "Belgium": "Brussels", "Denmark": "Copenhagen", "Russia": "Moscow", "China": "Beijing", "Peru": "Lima",
    "Cuba": "Havana", "Kenya": "Nairobi", "Turkey": "Ankara", "Iran": "Tehran", "Iraq": "Baghdad", "Thailand": "Bangkok", "Vietnam": "Hanoi",
    "Mexico": "Mexico City", "Argentina": "Buenos Aires", "Chile": "Santiago", "Scotland": "Edinburgh", "Ukraine": "Kyiv", "Romania": "Bucharest",
    "Bulgaria": "Sofia", "Nepal": "Kathmandu", "Lebanon": "Beirut", "Syria": "Damascus", "Colombia": "Bogota", "Venezuela": "Caracas", "Ghana": "Accra",
    "Ethiopia": "Addis Ababa", "the Philippines": "Manila", "South Korea": "Seoul", "Indonesia": "Jakarta", "Iceland": "Reykjavik", "Serbia": "Belgrade",
}
KINDS = {
    "bird": ["sparrow", "robin", "eagle", "owl", "parrot", "penguin", "duck", "pigeon", "swan", "crow"],
    "fish": ["trout", "salmon", "tuna", "herring", "carp", "cod", "sardine", "pike", "shark", "eel"],
    "fruit": ["apple", "pear", "peach", "plum", "cherry", "mango", "banana", "grape", "lemon", "melon"],
    "tool": ["hammer", "saw", "wrench", "drill", "screwdriver", "axe", "shovel", "rake", "chisel", "pliers"],
    "flower": ["rose", "tulip", "daisy", "lily", "orchid", "violet", "sunflower", "daffodil", "poppy", "iris"],
    "metal": ["iron", "copper", "gold", "silver", "zinc", "tin", "lead", "nickel", "aluminium", "titanium"],
    "vehicle": ["car", "truck", "bus", "bicycle", "motorcycle", "tractor", "van", "taxi", "scooter", "train"],
    "instrument": ["violin", "piano", "guitar", "flute", "trumpet", "cello", "harp", "clarinet", "trombone", "drum"],
}
OPPOSITES = [
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("early", "late"), ("open", "closed"), ("happy", "sad"), ("rich", "poor"), ("strong", "weak"),
    ("light", "dark"), ("wet", "dry"), ("full", "empty"), ("young", "old"), ("high", "low"), ("near", "far"), ("clean", "dirty"), ("loud", "quiet"),
    ("hard", "soft"), ("thick", "thin"), ("wide", "narrow"), ("begin", "end"), ("buy", "sell"), ("win", "lose"), ("love", "hate"), ("up", "down"),
    ("left", "right"), ("inside", "outside"), ("day", "night"), ("summer", "winter"), ("true", "false"), ("always", "never"), ("push", "pull"),
    ("give", "take"), ("laugh", "cry"), ("deep", "shallow"), ("sweet", "bitter"), ("friend", "enemy"), ("success", "failure"), ("arrive", "leave"),
    ("remember", "forget"), ("attack", "defend"),
]
WORDS = {
    "Spanish": {"water": "agua", "house": "casa", "book": "libro", "dog": "perro", "cat": "gato", "red": "rojo", "night": "noche", "bread": "pan",
                "milk": "leche", "friend": "amigo", "sun": "sol", "green": "verde", "school": "escuela", "tree": "árbol", "city": "ciudad"},
    "French": {"water": "eau", "house": "maison", "book": "livre", "dog": "chien", "cat": "chat", "red": "rouge", "night": "nuit", "bread": "pain",
               "milk": "lait", "friend": "ami", "sun": "soleil", "green": "vert", "school": "école", "tree": "arbre", "city": "ville"},
    "German": {"water": "Wasser", "house": "Haus", "book": "Buch", "dog": "Hund", "cat": "Katze", "red": "rot", "night": "Nacht", "bread": "Brot",
               "milk": "Milch", "friend": "Freund", "sun": "Sonne", "green": "grün", "school": "Schule", "tree": "Baum", "city": "Stadt"},
}
SUBJECTS = [
    "cats", "rivers", "bicycles", "bread", "the moon", "winter", "trains", "gardens", "music", "chess", "bees", "volcanoes", "libraries", "coffee",
    "dolphins", "mountains", "football", "rain", "horses", "computers", "forests", "apples", "teachers", "bridges", "whales", "cheese", "painting",
    "airplanes", "elephants", "salt", "birds", "clocks", "islands", "soup", "dogs", "stars", "books", "doctors", "tea", "deserts", "farmers",
    "glass", "castles", "honey", "the sun", "paper", "swimming", "snow", "potatoes", "markets", "lamps", "shoes",
]
NAMES = [
    "Alice", "Bruno", "Clara", "David", "Elena", "Frank", "Grace", "Henry", "Irene", "Jack", "Karen", "Leo", "Maria", "Nina", "Oscar", "Paula", "Rosa",
    "Simon", "Tina", "Victor",
]
BEGINNINGS = [
    ("The sun rises in the", " east", [" ocean", " kitchen", " winter"]), ("Bees make", " honey", [" paper", " rain", " glass"]),
    ("A triangle has three", " sides", [" wheels", " colors", " legs"]), ("Ice is frozen", " water", [" milk", " sand", " light"]),
    ("She opened her umbrella because of the", " rain", [" bread", " music", " chair"]), ("Birds build", " nests", [" roads", " cars", " books"]),
    ("We read a", " book", [" shoe", " cloud", " spoon"]), ("He drank a glass of", " water", [" stone", " wood", " paper"]),
    ("The teacher wrote on the", " board", [" soup", " river", " moon"]), ("Fish live in the", " sea", [" desert", " attic", " oven"]),
    ("In autumn the leaves fall from the", " trees", [" cars", " books", " shoes"]), ("To cut the bread, use a", " knife", [" pillow", " letter", " song"]),
    ("The baby began to", " cry", [" drive", " vote", " print"]), ("At night we see the moon and the", " stars", [" shoes", " cakes", " laws"]),
    ("The doctor works in a", " hospital", [" volcano", " bottle", " violin"]), ("Put the letter into the", " envelope", [" soup", " river", " sky"]),
    ("The opposite of black is", " white", [" loud", " seven", " Monday"]), ("A week has seven", " days", [" wheels", " kings", " doors"]),
    ("Cows give us", " milk", [" petrol", " paper", " gold"]), ("The pilot flew the", " plane", [" soup", " library", " carpet"]),
    ("An hour has sixty", " minutes", [" horses", " colors", " rooms"]), ("The carpenter made a table of", " wood", [" milk", " smoke", " music"]),
    ("We sleep in a", " bed", [" pencil", " clock", " sock"]), ("He paid with", " money", [" thunder", " sleep", " grass"]),
    ("The dog began to", " bark", [" read", " type", " sew"]), ("In winter it is very", " cold", [" square", " salty", " loud"]),
    ("They lit a candle because it was", " dark", [" sweet", " square", " seven"]), ("The ship sailed across the", " ocean", [" sofa", " page", " ceiling"]),
    ("Bananas are", " yellow", [" square", " angry", " metal"]), ("She wrote with a", " pen", [" cow", " lake", " cloud"]),
    ("The farmer drives a", " tractor", [" needle", " poem", " cheese"]), ("We boil water in a", " kettle", [" hat", " book", " fence"]),
    ("The king lived in a", " castle", [" thimble", " button", " pencil"]), ("My feet hurt because of my new", " shoes", [" moons", " words", " rivers"]),
    ("He was hungry, so he ate a", " sandwich", [" hammer", " window", " rock"]), ("The children played in the", " garden", [" number", " speech", " soup"]),
    ("A spider makes a", " web", [" cake", " hat", " novel"]), ("The clock shows the", " time", [" taste", " smell", " weight"]),
    ("Snow is", " white", [" hot", " square", " loud"]), ("To see better she put on her", " glasses", [" soup", " roof", " garden"]),
]
PROGRAMS = [
    ("Write a Python line that prints the word {}.", "(?i)print\\s*\\("), ("Write a Python function named {}.", "(?i)def\\s+\\w+\\s*\\("),
    ("Write a Python line that sets the variable {} to 5.", "(?i)\\w+\\s*=\\s*5"), ("Write a Python for loop over a list named {}.", "(?i)for\\s+\\w+\\s+in\\b"),
    ("Write a Python class named {}.", "(?i)class\\s+\\w+"), ("Write a Python list with three names of {}.", "\\[.+\\]"),
]
THINGS = ["apple", "count", "house", "river", "total", "color", "score", "planet"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
# An answer that is a JSON object or list, or a label in capitals, is no answer to these questions.
PLAIN = r"""{ not-regex = '^\s*(?:```\w*\s*)?[\[{]|\{\s*"|^[A-Z]+ \| ' }"""


def text(value):
    return json.dumps(value, ensure_ascii=False)


def choice(prompt, answer, others, key="prompt"):
    """A question whose right answer has to be likelier than the wrong ones."""
    return f"{key} = {text(prompt)}\nchecks = [{{ choice = {{ answer = {text(answer)}, others = {json.dumps(others, ensure_ascii=False)} }} }}]"


def says(prompt, tokens, *checks):
    """A question whose answer is written, and has to pass checks."""
    return f"prompt = {text(prompt)}\nmax_tokens = {tokens}\nchecks = [{', '.join([*checks, PLAIN])}]"


def regex(pattern):
    return f"{{ regex = {text(pattern)} }}"


def word(*words):
    return regex(rf"(?i)\b({'|'.join(words)})")


def stem(subject):
    """The beginning that singular and plural share."""
    return subject.removeprefix("the ").rstrip("s")[:6]


def others(rng, all_of, right, n=3):
    return rng.sample(sorted(set(all_of) - {right}), n)


def facts(rng):
    for country, capital in CAPITALS.items():
        yield choice(f"Tell me the capital city of {country}.", capital, others(rng, CAPITALS.values(), capital))


def kinds(rng):
    for kind, members in KINDS.items():
        for member in members:
            yield choice(f"Complete: \"{member}\" is the name of a kind of ...", kind, others(rng, KINDS, kind))


def opposites(rng):
    for one, other in OPPOSITES:
        yield choice(f"Which word means the opposite of \"{one}\"?", other, others(rng, [b for _, b in OPPOSITES], other))


def translation(rng):
    for language, words in WORDS.items():
        for english, foreign in words.items():
            yield choice(f"Translate the English word \"{english}\" into {language}.", foreign, others(rng, words.values(), foreign))


def arithmetic(rng):
    pairs = [(a, b) for a in range(2, 10) for b in range(2, 10)]
    for a, b in rng.sample(pairs, 36):
        yield says(f"Please add {a} and {b}.", 20, regex(rf"\b{a + b}\b"))
    for a, b in rng.sample([p for p in pairs if p[0] > p[1]], 14):
        yield choice(f"Please take {b} away from {a}.", str(a - b), [str(x) for x in rng.sample(sorted(set(range(10)) - {a - b}), 3)])
    for n in rng.sample(range(3, 60), 20):
        yield choice(f"Which whole number comes next after {n}?", str(n + 1), [str(n + 7), str(n + 12), str(n - 2)])


def order(rng):
    for cycle, unit in ((DAYS, "day of the week"), (MONTHS, "month")):
        for i, name in enumerate(cycle):
            after = cycle[(i + 1) % len(cycle)]
            yield says(f"The {unit} after {name} is called what?", 20, regex(rf"\b{after}\b"))
            before = cycle[i - 1]
            yield choice(f"What is the {unit} just before {name}?", before, others(rng, set(cycle) - {name}, before))


def memory(rng):
    for name in NAMES:
        yield says(f"My name is {name}. Please tell me what my name is.", 16, regex(rf"\b{name}\b"))
        thing = rng.choice(SUBJECTS[:20])
        yield says(f"Here is a note: \"{name} is very fond of {thing}.\" Who is fond of {thing}?", 20, regex(rf"\b{name}\b"))


def instructions(rng):
    for subject in SUBJECTS:
        yield says(f"Use the word \"{subject}\" in one short sentence.", 32, word(stem(subject)), "{ max-words = 24 }")
    for name in NAMES:
        yield says(f"Write only a greeting to {name}, in fewer than 12 words.", 20, regex(rf"\b{name}\b"), "{ max-words = 11 }")
    for thing in THINGS:
        yield says(f"Repeat the word \"{thing}\" exactly as it stands, and say nothing else.", 12, word(thing), "{ max-words = 3 }")
        yield says(f"Write the word \"{thing}\" in capital letters.", 12, regex(rf"\b{thing.upper()}\b"))
    for subject in SUBJECTS[::2]:
        yield says(f"List three things about {subject}, as a numbered list.", 40, regex(r"(?m)^\s*1[.)]"), regex(r"(?s)2[.)]"))
    for subject in SUBJECTS[1::4]:
        yield says(f"Ask me one question about {subject}. End it with a question mark.", 32, regex(r"\?"))
    for name in NAMES[::2]:
        yield says(f"Begin your answer with the words \"Dear {name}\" and thank them for a gift.", 24, regex(rf"^\W*Dear {name}"))


def talk(rng):
    for subject in SUBJECTS:
        yield says(f"What do you know about {subject}? Tell me in a sentence.", 32, word(stem(subject)), '"coherent"')


def programs(rng):
    for i, thing in enumerate(THINGS):
        for j, (request, pattern) in enumerate(PROGRAMS):
            if (i + j) % 4:
                yield says(request.format(thing if "three" not in request else "animals"), 28, regex(pattern))


def continuation(rng):
    for beginning, right, wrong in BEGINNINGS:
        yield choice(beginning, right, wrong, key="text")


CATEGORIES = [facts, kinds, opposites, translation, arithmetic, order, memory, instructions, talk, programs, continuation]


def questions():
    """`{category: [TOML of a case]}`, always the same."""
    made = {}
    for category in CATEGORIES:
        cases = list(category(random.Random(category.__name__)))
        # A list of programs may ask the same twice.
        made[category.__name__] = list(dict.fromkeys(cases))
    return made


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for category, cases in questions().items():
        # The role keeps drift from being measured on them: no gate looks at them.
        body = f'role = "target"\ndescription = "truth: {category}"\n'
        (folder / f"{category}.toml").write_text(body + "".join(f"\n[[cases]]\n{case}\n" for case in cases))
    return folder


if __name__ == "__main__":
    for name, cases in questions().items():
        print(f"{name:14} {len(cases)}")
    print(f"{'all':14} {sum(map(len, questions().values()))}")
