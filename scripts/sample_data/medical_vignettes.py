"""Presentations for the triage task, by split and level, and the words around them; read by medical.py.

Emergency: life, limb, an organ or sight is threatened now. Urgent: to be seen the same day. Routine: a planned visit or
self-care. Each entry reads `kind: predicate`; the kind says which patients it fits (see PATIENTS). Training and test
share the red flags ("slurred speech", "bleeding that does not stop") but no presentation.
"""

from typing import NamedTuple


class Patient(NamedTuple):
    """A kind of patient: how it is named after "A" or "An", and the ages it may have."""

    wording: tuple[str, ...]
    ages: tuple[int, int]


PATIENTS: dict[str, Patient] = {
    "adult": Patient(("{age}-year-old man", "{age}-year-old woman"), (30, 64)),
    "older": Patient(("{age}-year-old man", "{age}-year-old woman"), (66, 88)),
    "young": Patient(("{age}-year-old man", "{age}-year-old woman"), (19, 29)),
    "man": Patient(("{age}-year-old man",), (22, 60)),
    "woman": Patient(("{age}-year-old woman",), (25, 40)),
    "midlife": Patient(("{age}-year-old woman",), (50, 69)),
    "pregnant": Patient(("{age}-year-old pregnant woman",), (21, 39)),
    "boy": Patient(("{age}-year-old boy",), (12, 17)),
    "child": Patient(("{age}-year-old boy", "{age}-year-old girl"), (4, 11)),
    "baby": Patient(("{age}-month-old baby",), (5, 11)),
}

QUESTIONS: dict[str, tuple[str, ...]] = {
    "train": (
        "{vignette} How urgent is this?",
        "{vignette} What level of care is needed?",
        "Triage this patient. {vignette}",
        "{vignette} Choose the triage level.",
    ),
    "validation": ("{vignette} How soon is care needed?",),
    "test": (
        "{vignette} What is the triage level?",
        "{vignette} How should this patient be triaged?",
        "How urgent is care for this patient? {vignette}",
    ),
}

TRAIN_EMERGENCY = (
    "adult: has crushing chest pain spreading to the left arm, with sweating.",
    "adult: has sudden chest pain and shortness of breath and is pale and clammy.",
    "older: has heavy chest pressure spreading to the jaw and feels faint.",
    "older: has sudden weakness of one arm and slurred speech.",
    "older: woke with a drooping face and cannot lift the right arm.",
    "adult: suddenly cannot speak clearly and one side of the body is numb.",
    "older: is struggling to breathe and has blue lips.",
    "young: has an asthma attack, cannot finish a sentence and gets no relief from the inhaler.",
    "child: has a swollen tongue and trouble breathing after eating peanuts.",
    "adult: has swollen lips, wheezing and faintness minutes after a bee sting.",
    "adult: has collapsed and is unconscious.",
    "older: is unconscious after a fall down the stairs.",
    "young: has had a seizure for ten minutes and it does not stop.",
    "child: had a seizure half an hour ago, has a stiff neck and does not wake up.",
    "adult: is vomiting large amounts of blood.",
    "older: is passing a lot of bright red blood, is pale and feels faint.",
    "man: has a deep cut in the thigh with heavy bleeding that does not stop.",
    "young: has a fever, a stiff neck and a purple rash that does not fade when pressed.",
    "child: has a high fever, is drowsy and has a new rash of purple spots.",
    "older: has a fever, very fast breathing, cold skin and new confusion.",
    "adult: has a sudden severe headache, the worst ever, with vomiting and a stiff neck.",
    "adult: hit the head in a car crash, keeps vomiting and is more and more drowsy.",
    "young: has taken an overdose of tablets and is drowsy.",
    "child: swallowed drain cleaner, is drooling and has burns in the mouth.",
    "older: has sudden tearing chest pain that goes through to the back.",
    "older: has sudden severe abdominal pain, a rigid abdomen and clammy skin.",
    "woman: has a positive pregnancy test, severe lower abdominal pain and feels faint.",
    "pregnant: has heavy vaginal bleeding and severe abdominal pain at 34 weeks.",
    "pregnant: has a severe headache and blurred vision and then a seizure at 36 weeks.",
    "boy: has sudden severe pain in one testicle and is vomiting.",
    "older: has sudden complete loss of vision in one eye.",
    "man: has burns to the face and a hoarse voice after a house fire.",
    "adult: has back pain, new numbness between the legs and cannot pass urine.",
    "older: has a suddenly cold, pale and painful leg with no pulse in the foot.",
    "baby: is limp, hard to wake and breathing very fast.",
    "child: is choking on a grape and cannot cough or speak.",
    "young: has diabetes, is vomiting, breathing very fast and becoming confused.",
    "adult: is coughing up a lot of blood and is short of breath.",
)

TRAIN_URGENT = (
    "adult: has had burning urination and a fever since yesterday.",
    "woman: has burning urination, a fever and pain in one flank but keeps fluids down.",
    "pregnant: has had burning urination since yesterday, without fever, at 20 weeks.",
    "adult: has spreading redness and warmth of the lower leg and a mild fever.",
    "adult: has a cut on the hand with redness, swelling and pus.",
    "adult: has had a fever and a cough with green sputum for four days but breathes normally.",
    "young: has a fever and a cough with rusty sputum but is alert and breathes normally.",
    "child: has had ear pain and a fever for two days.",
    "young: has a fever and a very sore throat and can swallow only liquids.",
    "adult: has been vomiting since yesterday and keeps only sips of water down.",
    "child: has had vomiting and diarrhea for two days but is alert and drinking.",
    "adult: was bitten on the hand by a dog; the bleeding has stopped.",
    "adult: has a swollen, red hand the day after a cat bite.",
    "young: twisted an ankle, which is swollen, and cannot put weight on it.",
    "child: fell on one hand and has a swollen, painful wrist.",
    "adult: has a cut on the forearm that needs stitches; the bleeding has stopped.",
    "adult: has a tooth abscess with a swollen cheek but swallows and breathes normally.",
    "older: has had a painful blistering rash on one side of the chest for two days.",
    "young: wears contact lenses and has had a red, painful eye since yesterday.",
    "man: has a red, watery eye with a bit of grit stuck in it.",
    "adult: has one swollen, painful calf after a long flight but breathes normally.",
    "adult: has a blistered burn on the forearm the size of a palm from hot oil.",
    "man: has a painful red lump beside the anus and a mild fever.",
    "woman: is breastfeeding and has a red, painful breast and a fever.",
    "adult: has asthma and wheezes more than usual today but speaks in full sentences.",
    "older: has COPD with more cough and green sputum for two days but is not more breathless.",
    "adult: has diabetes and a new foot ulcer with redness around it.",
    "young: stepped on a rusty nail this morning and has had no recent tetanus shot.",
    "young: had a needlestick injury at work two hours ago.",
    "child: has had a fever for three days but is alert and drinking.",
    "baby: has had a fever since yesterday but is alert and feeding.",
    "baby: has had diarrhea since yesterday but is alert and has wet diapers.",
    "adult: has had yellow skin and dark urine for three days but feels fairly well.",
    "adult: has flank pain from a known kidney stone, without fever, and keeps fluids down.",
    "older: fell yesterday and has painful ribs but breathes normally.",
    "young: has a swollen, crooked finger after a ball hit it.",
    "child: has had a barking cough since last night but breathes quietly and is drinking.",
    "adult: has a migraine like earlier ones that has lasted two days despite the usual tablets.",
)

TRAIN_ROUTINE = (
    "adult: wants a refill of blood pressure tablets and feels well.",
    "older: comes for a yearly check-up and feels well.",
    "young: needs vaccinations for a trip in three months.",
    "adult: has had a runny nose and sneezing for two days, without fever.",
    "adult: has itchy eyes and sneezing every spring.",
    "young: has mild acne on the face.",
    "child: has had a wart on one finger for months.",
    "man: has itchy, flaky skin between the toes.",
    "adult: has had dandruff and an itchy scalp for months.",
    "adult: has mild heartburn after large meals and a steady weight.",
    "adult: has had trouble falling asleep for several weeks.",
    "adult: has a mild backache after gardening and walks normally.",
    "older: has had stiff knees in the morning for years.",
    "adult: has a small skin tag on the neck that has not changed for years.",
    "older: has earwax and slowly duller hearing, without pain.",
    "child: has dry, itchy patches in the elbow creases that come and go.",
    "woman: asks for advice about contraception.",
    "woman: is due for a cervical screening test and feels well.",
    "older: asks for the yearly flu shot.",
    "adult: wants help to stop smoking.",
    "adult: asks for advice about losing weight.",
    "adult: has had mild constipation for two weeks and otherwise feels well.",
    "young: has an ingrown toenail without redness or pus.",
    "adult: has mild tension headaches after work, unchanged for years.",
    "older: has had slowly worsening hearing for several years.",
    "child: has a mild cold, without fever, and plays and eats normally.",
    "adult: has a small, painless lump under the skin of the back, unchanged for years.",
    "woman: has varicose veins that ache mildly in the evening.",
    "adult: has dry, chapped hands every winter.",
    "young: has had a cold sore on the lip for two days.",
    "adult: has stable thyroid disease and is due for a yearly blood test.",
    "adult: wants a normal cholesterol result explained.",
    "man: asks about hair loss that began years ago.",
    "child: has head lice and an itchy scalp.",
    "adult: has had mild heel pain with the first steps of the day for months.",
    "older: has had thick, yellow toenails for years.",
    "young: needs a medical form signed for a sports club and feels well.",
    "adult: has mild hay fever and wants a refill of the nasal spray.",
)
