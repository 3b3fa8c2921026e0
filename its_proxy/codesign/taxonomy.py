"""About forty everyday domains: the words that tell them, and template personas for each.

The taxonomy stands in for a language model in tests and in the demo, and it tells which domain a
query belongs to wherever a pool of personas is sorted by domain. Everything drawn from it is
labelled "template personas". Its content is versioned: changing one word here changes what trained
checkpoints are served with, so a change means a new `VERSION`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import fsum, log, sqrt

VERSION = "taxonomy/1"


@dataclass(frozen=True, slots=True)
class Domain:
    """`group` gathers neighbours: domains of one group are never called unrelated."""

    name: str
    group: str
    keywords: frozenset[str]
    roles: tuple[str, ...]
    place: str


TRAITS = (
    "patient and careful",
    "quick to notice patterns",
    "fond of old stories",
    "strict about details",
    "curious about people",
    "calm under pressure",
    "proud of honest work",
    "known for dry humour",
)

HABITS = (
    "keeps a notebook of daily events",
    "teaches beginners on quiet evenings",
    "likes to explain each move aloud",
    "compares every season with the last",
    "reads old records before deciding",
    "asks friends for a second view",
)

# name | group | keywords | roles | place
_TABLE = """
cooking | food | cook chef bake bakes baker kitchen recipe oven pie pies cake cakes cookie muffin flour sugar egg eggs onion onions soup dinner meal bread | pastry chef; line cook; soup maker; recipe writer | kitchen
restaurants | food | restaurant waiter waitress menu pizza burger sandwich tip cafe coffee drink juice lunch breakfast customer diner serve | head waiter; cafe owner; menu planner; barista | dining room
groceries | trade | grocery store supermarket shop apple banana orange milk pound bag shelf fruit vegetable carton dozen | shop keeper; fruit seller; stock clerk; market buyer | corner shop
farming | land | farm farmer cow cows hen hens pig goat barn bale bales hay tractor crop harvest acre field wheat corn chicken sheep | dairy farmer; shepherd; grain grower; field hand | barn
gardening | land | garden gardener seed seeds rose roses plant plants flower tree orchard plum plums soil lawn tulip bush grow | botanist; landscaper; nursery owner; rose breeder | orchard
forestry | land | forest wood timber log lumber oak pine leaf branch sawmill hike trail ranger | forest ranger; tree surveyor; sawmill hand; trail guide | forest
fishing | water | fish fisherman fishing net aquarium tank bait lake river pond trout salmon shrimp | net mender; trout angler; fish warden; bait seller | lake shore
sailing | water | ship captain sail boat harbour harbor rope ropes crate crates sea ocean dock port map maps cargo | ship navigator; dock worker; harbour pilot; rope maker | harbour
swimming | sport | swim pool lap dive diver lifeguard beach wave surf | swim coach; lifeguard; diving judge; surf teacher | pool
team sports | sport | coach ball balls team player game goal score football soccer basketball baseball hockey match medal medals jersey jerseys stadium win loses | track coach; referee; team scout; goal keeper | stadium
running | sport | run runner race marathon mile sprint jog lap track stride pace | race organiser; trail runner; pace setter; finish judge | running track
cycling | transport | bike bicycle cycle cyclist pedal wheel helmet | bike mechanic; cycle courier; frame builder; tour guide | bike shed
driving | transport | car drive driver truck road highway gas gallon fuel tire parking traffic speed trip | truck driver; road planner; car mechanic; driving teacher | garage
railways | transport | train rail railway station passenger ticket conductor locomotive subway bus route | train conductor; signal keeper; bus driver; station master | station
aviation | transport | plane airplane pilot flight airport fly altitude airline luggage | airline pilot; flight planner; luggage handler; tower controller | airport
travel | leisure | travel vacation hotel tour tourist trip suitcase visit museum guide souvenir camp | tour guide; hotel clerk; travel writer; map maker | hotel lobby
banking | money | bank clerk deposit deposits coin coins bill bills bond bonds account loan interest save savings cent dollar spends invest | bank auditor; bond trader; loan officer; coin dealer | bank
accounting | money | tax salary wage paycheck income budget expense profit invoice earn hourly overtime rent | tax adviser; payroll clerk; cost analyst; book keeper | office
trade | trade | sell seller sale market price discount cost buy merchant profit vendor wholesale stall coupon | street vendor; wholesale buyer; auction caller; stall holder | market square
real estate | building | house apartment rent landlord tenant mortgage property room floor rug carpet | estate agent; house inspector; rent collector; interior planner | show flat
construction | building | build builder brick wall concrete roof fence paint painter ladder tile cement carpenter nail hammer | brick layer; roof builder; site foreman; house painter | building site
engineering | building | machine engine gear factory bridge motor robot assembly produce bolt circuit pipe wire | bridge engineer; gear designer; factory planner; test mechanic | workshop
computing | science | computer software code program data file download website internet phone app screen laptop byte | software tester; network keeper; data clerk; game coder | server room
physics | science | force energy speed velocity light temperature atom particle magnet pressure electric degree | lab physicist; lens grinder; clock maker; heat engineer | laboratory
chemistry | science | acid chemical solution mixture beaker liquid liter litre molecule salt reaction ounce | lab chemist; dye mixer; soap maker; glass blower | chemistry lab
astronomy | science | star planet moon telescope orbit space rocket galaxy comet sun astronaut | star gazer; rocket engineer; planet hunter; telescope maker | observatory
biology | health | cell gene bacteria species insect bee butterfly frog snake bird zoo animal elephant | field biologist; bee keeper; zoo keeper; bird ringer | nature reserve
medicine | health | doctor nurse hospital patient medicine pill dose surgery clinic dentist vaccine blood | ward nurse; family doctor; pharmacist; dentist | hospital
fitness | health | gym exercise weight calorie diet muscle yoga push-up pushup workout pound lose | gym trainer; yoga teacher; diet planner; weight lifter | gym
pets | health | dog cat puppy kitten pet vet veterinarian hamster rabbit leash parrot collar | dog trainer; cat breeder; pet groomer; vet | kennel
school | learning | school teacher student class classroom pencil pencils desk desks homework grade exam test lesson book books page lends | school librarian; maths tutor; exam marker; class helper | classroom
libraries | learning | library librarian read reader novel chapter page author bookcase shelf magazine | archive keeper; book binder; story reader; catalogue clerk | library
history | learning | history war king queen century ancient castle empire army soldier museum year | museum keeper; castle guide; letter collector; army historian | archive
law | society | law lawyer judge court police crime jury contract prison officer vote election | court clerk; trial lawyer; patrol officer; vote counter | court house
news | society | newspaper article reporter journalist print subscribe magazine editor letter mail stamp post envelope | news editor; letter carrier; print setter; photo reporter | news room
family | home | mother father sister brother family child children birthday party aunt uncle cousin grandmother son daughter baby | family counsellor; child minder; party planner; story teller | living room
crafts | home | sew knit yarn fabric thread bead necklace bracelet craft scarf quilt button ribbon shirt dress clothes shoe hat | quilt maker; shoe mender; bead worker; tailor | craft room
toys and games | leisure | toy doll card marble puzzle game chess block lego video play sticker balloon dice | toy maker; puzzle designer; chess teacher; card dealer | toy shop
music | arts | music singer song songs drum drums ticket tickets concert guitar piano band album theatre theater record records violin | orchestra conductor; drummer; piano tuner; song writer | theatre
painting and film | arts | art artist paint painting picture photo camera movie film canvas draw drawing gallery cinema frame crayon | film editor; portrait painter; gallery guide; camera hand | gallery
"""  # noqa: E501 one domain a line, so that the table reads as one


def _domains() -> tuple[Domain, ...]:
    rows = ([cell.strip() for cell in line.split("|")] for line in _TABLE.strip().splitlines())
    return tuple(
        Domain(name, group, frozenset(map(_stem, keywords.split())), tuple(r.strip() for r in roles.split(";")), place)
        for name, group, keywords, roles, place in rows
    )


_WORD = re.compile(r"[a-z]+")


def _stem(word: str) -> str:
    """Folds plain plurals, so that "coins" and "coin" are one word; no more than that."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def words(text: str) -> list[str]:
    """The lower-case, singular-folded ASCII words of `text`, in order."""
    return [_stem(word) for word in _WORD.findall(text.lower())]


DOMAINS = _domains()
NAMES = tuple(domain.name for domain in DOMAINS)
GENERAL = "everyday life"
"""The domain of a query in which no keyword occurs; it has personas, and is never drawn at random."""

_GENERAL_ROLES = ("neighbour", "town clerk", "night guard", "handy person")
_GENERAL = Domain(GENERAL, GENERAL, frozenset(), _GENERAL_ROLES, "town square")
_BY_NAME: Mapping[str, Domain] = {domain.name: domain for domain in (*DOMAINS, _GENERAL)}


def domain_named(name: str) -> Domain:
    """The domain of that name; `KeyError` if there is none."""
    return _BY_NAME[name]


@lru_cache(maxsize=1)
def _keyword_weights() -> Mapping[str, tuple[tuple[str, float], ...]]:
    """keyword -> (domain, weight): rare keywords tell more (inverse domain frequency), wide domains no more than
    narrow ones (unit length), which makes the sum over a query's words its cosine up to the query's own length.

    Draws between two domains turn on the last bit, so a weight must be one number everywhere: `fsum`, because a set
    has another order in every process; rounded, because `log` differs in its last bit between C libraries.
    """
    n_domains: dict[str, int] = {}
    for domain in DOMAINS:
        for keyword in domain.keywords:
            n_domains[keyword] = n_domains.get(keyword, 0) + 1
    idf = {keyword: 1 + log(len(DOMAINS) / n) for keyword, n in n_domains.items()}
    weights: dict[str, list[tuple[str, float]]] = {}
    for domain in DOMAINS:
        length = sqrt(fsum(idf[keyword] ** 2 for keyword in domain.keywords))
        for keyword in sorted(domain.keywords):
            weights.setdefault(keyword, []).append((domain.name, round(idf[keyword] / length, 12)))
    return {keyword: tuple(pairs) for keyword, pairs in weights.items()}


@lru_cache(maxsize=1)
def _spelled_weights() -> Mapping[str, tuple[tuple[str, float], ...]]:
    """As the keywords' weights, by every spelling that folds to a keyword: a text's words are looked up as they are."""
    return {
        spelling: pairs
        for keyword, pairs in _keyword_weights().items()
        for spelling in (keyword, f"{keyword}s")
        if _stem(spelling) == keyword
    }


def relatedness(text: str) -> dict[str, float]:
    """How strongly each domain's keywords occur in `text`; domains without any are left out.

    Added up word by word, in the text's order: the last bit of a sum depends on it.
    """
    weights = _spelled_weights()
    scores: dict[str, float] = {}
    # The filter is C: of a megabyte of text only the keywords get as far as the loop.
    for word in filter(weights.__contains__, _WORD.findall(text.lower())):
        for name, weight in weights[word]:
            scores[name] = scores.get(name, 0.0) + weight
    return scores


def domain_of(text: str) -> str:
    """The domain that `text` belongs to: strongest keywords win, the earlier in the table on a draw."""
    return strongest(relatedness(text))


def strongest(scores: Mapping[str, float]) -> str:
    """The domain of a text that is so related."""
    return max(NAMES, key=lambda name: scores.get(name, 0.0)) if scores else GENERAL


def unrelated_domains(text: str) -> tuple[str, ...]:
    """Domains with none of their keywords in `text` and outside the group of its own domain.

    A very long text can touch every domain; then the least related ones outside its group stand in.
    """
    return unrelated(relatedness(text))


def unrelated(scores: Mapping[str, float]) -> tuple[str, ...]:
    """The domains that are unrelated to a text that is so related to each."""
    own_group = domain_named(strongest(scores)).group
    outside = [domain.name for domain in DOMAINS if domain.group != own_group]
    least = min(scores.get(name, 0.0) for name in outside)
    return tuple(name for name in outside if scores.get(name, 0.0) == least)


def template_personas() -> tuple[tuple[str, str], ...]:
    """(domain, text) of every template persona: each domain's roles, each with every habit."""
    personas = []
    for domain in (*DOMAINS, _GENERAL):
        for n_role, role in enumerate(domain.roles):
            article = "an" if role[0] in "aeiou" else "a"
            for n_habit, habit in enumerate(HABITS):
                trait = TRAITS[(3 * n_role + n_habit) % len(TRAITS)]
                text = f"You are {article} {role}, {trait}, who works near the {domain.place} and {habit}."
                personas.append((domain.name, text))
    return tuple(personas)
