"""Generic drug names by class, and the ways to ask for the class; read by medical.py.

Only classes whose members share a name stem, or a few (`-olol`, `-pril`, `cef-`; see the World Health Organization's
"Stem Book" of nonproprietary names), so that a model can carry what it learns over to names that it has not seen.
Generic names, in American spelling. Some are no longer sold, or are sold in a few countries only.
"""

NAMES_BY_CLASS: dict[str, str] = {
    "Beta blocker": (
        "acebutolol alprenolol atenolol betaxolol bisoprolol carteolol celiprolol esmolol labetalol landiolol "
        "levobunolol metoprolol nadolol nebivolol oxprenolol penbutolol pindolol propranolol sotalol timolol"
    ),
    "ACE inhibitor": (
        "benazepril captopril cilazapril delapril enalapril fosinopril imidapril lisinopril moexipril perindopril "
        "quinapril ramipril spirapril temocapril trandolapril zofenopril"
    ),
    "Angiotensin receptor blocker": (
        "azilsartan candesartan eprosartan fimasartan irbesartan losartan olmesartan telmisartan valsartan"
    ),
    "HMG-CoA reductase inhibitor": (
        "atorvastatin cerivastatin fluvastatin lovastatin pitavastatin pravastatin rosuvastatin simvastatin"
    ),
    "Proton pump inhibitor": (
        "dexlansoprazole esomeprazole ilaprazole lansoprazole omeprazole pantoprazole rabeprazole"
    ),
    "Azole antifungal": (
        "butoconazole econazole efinaconazole fenticonazole fluconazole isavuconazole isoconazole itraconazole "
        "ketoconazole luliconazole miconazole oteseconazole oxiconazole posaconazole sertaconazole sulconazole "
        "terconazole tioconazole voriconazole"
    ),
    "Penicillin antibiotic": (
        "amoxicillin ampicillin azlocillin bacampicillin carbenicillin cloxacillin dicloxacillin flucloxacillin "
        "methicillin mezlocillin nafcillin oxacillin piperacillin pivampicillin temocillin ticarcillin"
    ),
    "Fluoroquinolone antibiotic": (
        "balofloxacin besifloxacin ciprofloxacin delafloxacin finafloxacin gatifloxacin gemifloxacin grepafloxacin "
        "levofloxacin lomefloxacin moxifloxacin nadifloxacin norfloxacin ofloxacin pazufloxacin pefloxacin "
        "prulifloxacin sitafloxacin sparfloxacin tosufloxacin trovafloxacin"
    ),
    "Tetracycline antibiotic": (
        "demeclocycline doxycycline eravacycline lymecycline meclocycline methacycline minocycline omadacycline "
        "sarecycline"
    ),
    "Cephalosporin antibiotic": (
        "cefaclor cefadroxil cefazolin cefdinir cefditoren cefepime cefixime cefonicid cefoperazone cefotaxime "
        "cefotetan cefoxitin cefpodoxime cefprozil ceftaroline ceftazidime ceftibuten ceftizoxime "
        "ceftobiprole ceftolozane ceftriaxone cefuroxime"
    ),
    "Calcium channel blocker": (
        "amlodipine aranidipine azelnidipine barnidipine benidipine cilnidipine clevidipine efonidipine felodipine "
        "isradipine lacidipine lercanidipine levamlodipine manidipine nicardipine nifedipine nimodipine nisoldipine "
        "nitrendipine"
    ),
    "DPP-4 inhibitor": (
        "alogliptin anagliptin evogliptin gemigliptin gosogliptin linagliptin omarigliptin saxagliptin sitagliptin "
        "teneligliptin trelagliptin vildagliptin"
    ),
    "SGLT2 inhibitor": (
        "bexagliflozin canagliflozin dapagliflozin empagliflozin enavogliflozin ertugliflozin ipragliflozin "
        "luseogliflozin remogliflozin tofogliflozin"
    ),
    "Serotonin 5-HT1 agonist": ("almotriptan eletriptan frovatriptan naratriptan rizatriptan sumatriptan zolmitriptan"),
    "Serotonin 5-HT3 antagonist": (
        "alosetron azasetron dolasetron granisetron indisetron ondansetron palonosetron ramosetron tropisetron"
    ),
    "Tyrosine kinase inhibitor": (
        "acalabrutinib afatinib axitinib bosutinib brigatinib cabozantinib capmatinib ceritinib crizotinib dacomitinib "
        "dasatinib entrectinib erlotinib gefitinib gilteritinib ibrutinib imatinib lapatinib lenvatinib lorlatinib "
        "neratinib nilotinib osimertinib ponatinib sunitinib tucatinib"
    ),
    "Low-molecular-weight heparin": (
        "ardeparin bemiparin certoparin dalteparin enoxaparin nadroparin parnaparin reviparin tinzaparin"
    ),
    "Benzodiazepine": (
        "alprazolam bromazepam brotizolam clonazepam diazepam estazolam flunitrazepam flurazepam halazepam loprazolam "
        "lorazepam lormetazepam medazepam midazolam nitrazepam nordazepam oxazepam prazepam quazepam remimazolam "
        "temazepam tetrazepam triazolam"
    ),
    "Corticosteroid": (
        "alclometasone amcinonide beclomethasone betamethasone budesonide ciclesonide cortisone desonide "
        "desoximetasone dexamethasone diflorasone flumethasone flunisolide fluocinolone fluocinonide fluticasone "
        "halcinonide hydrocortisone methylprednisolone mometasone paramethasone prednisolone prednisone "
        "triamcinolone"
    ),
    "Bisphosphonate": (
        "alendronate clodronate etidronate ibandronate incadronate minodronate neridronate pamidronate risedronate "
        "tiludronate zoledronate"
    ),
    "Local anesthetic": (
        "articaine benzocaine bupivacaine chloroprocaine dibucaine etidocaine levobupivacaine lidocaine mepivacaine "
        "oxybuprocaine prilocaine procaine proparacaine ropivacaine tetracaine trimecaine"
    ),
    "Neuromuscular blocker": (
        "atracurium cisatracurium doxacurium mivacurium pancuronium pipecuronium rapacuronium rocuronium vecuronium"
    ),
    "Beta-2 agonist": (
        "albuterol arformoterol bambuterol bitolterol clenbuterol fenoterol formoterol indacaterol levalbuterol "
        "olodaterol pirbuterol procaterol reproterol salmeterol tulobuterol vilanterol"
    ),
    "Nonsteroidal anti-inflammatory drug": (
        "aceclofenac bromfenac celecoxib dexibuprofen dexketoprofen diclofenac etoricoxib fenoprofen flurbiprofen "
        "ibuprofen ketoprofen lornoxicam loxoprofen meloxicam nepafenac parecoxib piroxicam pranoprofen tenoxicam "
        "zaltoprofen"
    ),
    "Antiviral": (
        "acyclovir adefovir atazanavir bictegravir cabotegravir cidofovir daclatasvir darunavir dolutegravir "
        "entecavir famciclovir favipiravir fosamprenavir ganciclovir indinavir letermovir lopinavir nelfinavir "
        "oseltamivir penciclovir peramivir raltegravir remdesivir saquinavir sofosbuvir tenofovir valacyclovir "
        "valganciclovir zanamivir"
    ),
    "Monoclonal antibody": (
        "adalimumab alirocumab atezolizumab benralizumab bevacizumab canakinumab cetuximab daratumumab denosumab "
        "dupilumab eculizumab evolocumab golimumab guselkumab infliximab ipilimumab mepolizumab natalizumab nivolumab "
        "ocrelizumab omalizumab palivizumab pembrolizumab rituximab secukinumab tocilizumab trastuzumab ustekinumab "
        "vedolizumab"
    ),
}

DRUGS_BY_CLASS: dict[str, tuple[str, ...]] = {label: tuple(names.split()) for label, names in NAMES_BY_CLASS.items()}

QUESTIONS: dict[str, tuple[str, ...]] = {
    "train": (
        "What class of drug is {drug}?",
        "Which drug class does {drug} belong to?",
        "What kind of medicine is {drug}?",
        "Name the drug class of {drug}.",
        "A patient is given {drug}. What type of drug is it?",
        "To which class of medicines does {drug} belong?",
        "How is the medicine {drug} classified?",
        "A chart mentions {drug}. Which class of drug is this?",
    ),
    "validation": (
        "Which family of drugs includes {drug}?",
        "A student asks what kind of drug {drug} is. What is the answer?",
    ),
    "test": (
        "What is the drug class of {drug}?",
        "Which group of medicines does {drug} belong to?",
        "A medication list shows {drug}. What type of medicine is this?",
        "What sort of drug is {drug}?",
        "State the class of the medicine {drug}.",
    ),
}
"""Ways to ask; each split has its own."""
