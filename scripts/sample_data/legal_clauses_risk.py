"""Clauses on risk: who keeps secrets, who pays, how much, and what excuses; each paragraph is one template."""

from legal_text import Templates

CONFIDENTIALITY = Templates(
    train="""
{a} shall hold all Confidential Information received from {b} in strict confidence and shall not disclose it to any
third party without prior written consent for {years} years after disclosure.

Each party agrees not to use the other party's proprietary information for any purpose other than performing this
Agreement dated {date}, and to protect it with no less than reasonable care.

The receiving party may share the disclosing party's trade secrets only with employees of {a} who need to know them
and who are bound by written duties of non-disclosure.

Upon request of {b}, {a} shall within {few_days} days return or destroy all documents containing Confidential
Information and certify in writing that no copies have been kept.

Confidential Information does not include information that is or becomes public through no fault of {a}, was already
known to it, or was independently developed without reference to the materials of {b}.

If {a} is compelled by subpoena or court order to disclose Confidential Information, it shall give {b} prompt written
notice so that {b} may seek a protective order.

The terms of this Agreement and all pricing, customer lists and business plans of {b} are confidential, and {a} shall
not reveal them to anyone other than its legal and financial advisers.

The obligations of secrecy in this Section survive termination of this Agreement for {years} years and, as to any
trade secret of {a}, for as long as it remains a trade secret.

During the evaluation that begins on {date}, {a} will have access to non-public technical data of {b} and undertakes
to keep that data secret and not to copy it except as needed for the evaluation.

Consultant acknowledges that in the course of the engagement it will learn confidential matters of {a} and agrees not
to divulge them, during the engagement or for {years} years thereafter, to any person or firm.

{a} shall safeguard the Confidential Information of {b} with the same degree of care that it uses for its own
information of like importance, and shall report any unauthorized disclosure within {few_days} days.

Neither party shall issue a press release or otherwise make public the existence or content of the discussions between
{a} and {b}, which both parties shall treat as confidential.
""",
    validation="""
All drawings, formulas and know-how that {a} makes available to {b} are confidential, and {b} shall not reveal them or
use them for its own benefit at any time before the end of {years} years from receipt.

{a} shall ensure that its personnel and subcontractors keep secret all information marked "confidential" by {b}, and
shall be responsible for any disclosure by them.

Recipient shall disclose Confidential Information of {a} only to those of its directors and advisers who require it to
consider the proposed transaction with {b}.

The data room of {a} contains sensitive, non-public material; {b} agrees that nothing in it shall be copied, published
or passed to others without consent.
""",
    test="""
Except as required by law, {a} will not divulge to any outside person the non-public information that {b} entrusts to
it, and will limit internal access to those with a need to know.

Any information about the products, finances or customers of {a} that comes to the knowledge of {b} shall be treated
as strictly confidential for a period of {years} years from the date of disclosure.

{b} shall keep in confidence the designs and related documentation delivered by {a}, shall store them securely, and
shall make no disclosure of them beyond its authorized staff.

The duty of confidentiality does not extend to information which {a} can show was in the public domain at the time of
disclosure or was lawfully received from a third party free to disclose it.

On expiry of this Agreement, {b} shall promptly hand back all materials embodying Confidential Information of {a} and
erase electronic copies, save one archival copy that remains subject to secrecy.

Employee shall not, while employed by {a} or afterwards, disclose or make use of any trade secret or confidential
process of {a} except in the proper performance of Employee's duties.
""",
)

INDEMNIFICATION = Templates(
    train="""
{a} shall indemnify, defend and hold harmless {b}, its officers and employees, from and against all claims, damages
and expenses arising out of any breach of this Agreement by {a}.

Contractor agrees to indemnify {a} against any loss, including reasonable attorneys' fees, resulting from bodily
injury or property damage caused by the negligence of Contractor or its agents.

{a} will defend {b} at its own expense against any third-party claim that the Products infringe a patent or copyright,
and will pay all damages finally awarded.

The indemnified party shall notify the indemnifying party within {few_days} days of any claim and shall permit {a} to
control the defense and settlement with counsel of its choice.

Each party shall indemnify the other against liabilities, losses and costs arising from the gross negligence or
willful misconduct of the indemnifying party in performing the agreement of {date}.

Seller shall reimburse and hold harmless {a} for any taxes, penalties and costs attributable to the operation of the
business before {date}.

{a} shall save {b} harmless from every suit or demand brought by any person on account of a defect in the Products,
and shall bear the costs of defending it.

The indemnity given by {a} under this Section shall not apply to the extent that a claim results from modifications
made by {b} or from use contrary to the documentation.

{a} shall not settle any indemnified claim in a manner that admits fault of {b} or imposes any obligation on it
without the prior written consent of {b}.

Tenant shall indemnify and defend {a} from all claims arising from Tenant's use of the Premises, except to the extent
caused by the negligence of {a}.

No indemnification shall be payable by {a} until the total of all losses suffered by {b} exceeds {amount}, after which
{a} shall indemnify {b} for all such losses from the first dollar.

Licensee shall fully indemnify {a} and its affiliates for all judgments, fines and legal fees incurred by reason of
Licensee's manufacture or sale of the Licensed Products.
""",
    validation="""
{b} agrees to protect, defend and indemnify {a} from any third-party action based on the content that {b} supplies,
including the reasonable fees of counsel.

If a claim is made for which {a} is entitled to be indemnified, {b} shall assume the defense promptly and {a} shall
cooperate at the expense of {b}.

{a} undertakes to make {b} whole for, and hold it harmless from, any losses caused by a violation of law on the part
of {a} or its subcontractors.

The obligation of Supplier to indemnify {a} for personal injury claims extends to claims made within {years} years
after delivery of the Goods.
""",
    test="""
{a} shall be responsible for, and shall indemnify {b} and keep it indemnified against, all third-party claims,
proceedings and costs to which {b} may become subject owing to the acts or omissions of {a}.

Should any person sue {b} on the ground that the Goods violate that person's intellectual property rights, {a} shall
defend {b} and satisfy any resulting judgment or settlement.

Carrier shall defend, hold harmless and indemnify {a} from losses arising out of the death of or injury to any person
in connection with the transportation services.

As a condition of indemnity, {b} shall tender the claim promptly, give {a} sole authority over its defense, and
provide information and assistance at the expense of {a}.

The shareholders of {a}, jointly and severally, agree to indemnify {b} for any damages flowing from the inaccuracy of
a representation or warranty made as of {date}.

Franchisee shall hold {a} and its directors harmless against demands, liabilities and attorneys' fees that arise in
any way from the operation of the franchised outlet.
""",
)

LIMITATION_OF_LIABILITY = Templates(
    train="""
IN NO EVENT SHALL {a} BE LIABLE FOR ANY INDIRECT, INCIDENTAL OR CONSEQUENTIAL DAMAGES, INCLUDING LOST PROFITS, EVEN IF
ADVISED OF THE POSSIBILITY OF SUCH DAMAGES.

The total liability of {a} under this Agreement, whether in contract, tort or otherwise, shall not exceed the fees
paid by {b} during the {months} months before the claim arose.

Neither party shall be liable to the other for special, punitive or consequential damages, except for a breach of the
confidentiality obligations between {a} and {b}.

The aggregate liability of {a} for all claims relating to the Services is limited to {amount}.

The limitations set out in this Section do not apply to death or personal injury caused by negligence of {a}, to
fraud, or to its obligation to indemnify {b}.

Under no circumstances will {a} be responsible for loss of data, loss of revenue or the cost of substitute goods,
regardless of the theory of liability.

{b} agrees that its sole remedy for any defective Product shall be repair or replacement, and that the maximum
liability of {a} shall be the purchase price of that Product.

The liability of each party for direct damages is capped at the greater of {amount} and {percent} of the charges
payable in the year in question.

No claim for damages in excess of {amount} may be brought against {a}, its directors or its suppliers on any ground
connected with this Agreement.

The parties have allocated risk through these exclusions of damages, and {a} would not have entered into this
Agreement on {date} without such limits on its liability.

Any liability of {a} for delay is limited to {percent} of the price of the delayed goods, and all further claims for
damages by {b} are excluded.

EXCEPT FOR WILLFUL MISCONDUCT, THE CUMULATIVE LIABILITY OF {a} TO {b} SHALL BE LIMITED TO THE AMOUNTS ACTUALLY
RECEIVED BY {a} UNDER THE APPLICABLE ORDER.
""",
    validation="""
{a} shall have no liability for loss of business, anticipated savings or goodwill, and its entire liability in respect
of any one event shall not exceed {amount}.

Save for fraud, neither {a} nor {b} will be answerable for any indirect or consequential loss, however arising.

The maximum amount that {b} may recover from {a} for all causes of action taken together is the sum of fees paid in
the previous {months} months.

TO THE EXTENT PERMITTED BY LAW, {a} EXCLUDES ALL LIABILITY FOR LOST PROFITS AND CAPS ANY OTHER LIABILITY AT {amount}.
""",
    test="""
Whatever the legal basis of a claim, the liability of {a} to {b} shall in no case be greater than {amount} in the
aggregate.

Neither {a} nor its licensors will be liable for loss of profits, business interruption or any other consequential
loss arising from the use of the Services.

THE REMEDIES OF {b} ARE LIMITED TO DIRECT DAMAGES, WHICH SHALL NOT EXCEED {percent} OF THE CONTRACT PRICE; ALL
EXEMPLARY AND INDIRECT DAMAGES ARE WAIVED.

{b} may not recover from {a}, in respect of all claims arising in a contract year, more than the charges it paid
during that year.

The cap on damages in this Section shall apply to every claim against {a} other than claims for gross negligence, and
it shall not be increased by the existence of several claims.

Liability of {a} for slight negligence is excluded, and in every other case is restricted to foreseeable damage up to
a maximum of {amount}.
""",
)

FORCE_MAJEURE = Templates(
    train="""
Neither party shall be liable for failure to perform caused by acts of God, war, terrorism, flood, fire, strikes or
other events beyond its reasonable control, provided that {a} or {b}, as the case may be, gives prompt notice.

If performance by {a} is prevented by an event of force majeure, the time for performance shall be extended for as
long as the event continues.

Should an event of force majeure continue for more than {days} days, {b} may terminate this Agreement by written
notice to {a}.

{a} shall be excused from any delay resulting from earthquake, epidemic, embargo or governmental action that could not
have been prevented by reasonable diligence.

"Force Majeure Event" means any circumstance not within the reasonable control of {a}, including riots, natural
disasters, pandemics and failures of public utilities.

The party affected by a Force Majeure Event shall notify the other within {few_days} days of its start, describe its
effects and use reasonable efforts to resume performance.

The obligation of {b} to pay money when due shall not be excused by force majeure, although every other duty is
suspended while such an event lasts.

No delay or default by {a} shall be a breach to the extent that it is due to labor disputes, shortage of materials,
acts of public enemies or any other cause beyond its control.

Delivery dates shall be postponed without penalty where hurricanes, blizzards or other severe weather make it
impossible for {a} to ship the Products to {b}.

During any period of force majeure affecting {a}, {b} may obtain the affected services elsewhere, and the minimum
purchase commitment is reduced accordingly.

Where civil unrest, quarantine or an act of government hinders {a} in carrying out its duties, those duties shall be
suspended, and neither party may claim damages for the interruption.

Landlord shall not be deemed in default if construction for {a} is delayed by fire, casualty, strikes or unavoidable
events outside Landlord's control; the date of {date} shall be extended day for day.
""",
    validation="""
{a} is released from its obligations to {b} for so long as war, insurrection, natural catastrophe or a similar
unforeseeable event makes performance impossible.

A party hindered by an event outside its control, such as a storm, a strike or a cyber-attack on public networks,
shall inform {a} without delay and resume work once the event ends.

Force majeure shall relieve {b} of liability for late delivery, but if it lasts longer than {days} days {a} may cancel
the orders concerned.

Performance of this Agreement of {date} shall be suspended to the extent that fire, flood or acts of the authorities
prevent {a} from carrying on its business.
""",
    test="""
{a} will not be in breach if an extraordinary event such as war, plague, lightning or a general strike, which it could
neither foresee nor avoid, keeps it from performing.

Upon the occurrence of force majeure, the affected obligations of {a} are suspended; once the impediment has lasted
{days} days, either party may end the Agreement without liability.

Non-performance by {b} shall be excused where it results from acts of God, orders of civil or military authority, or
interruption of power supply beyond its control.

{a} shall take all reasonable steps to mitigate the consequences of any Force Majeure Event and shall keep {b}
informed of when normal performance is expected to resume.

Neither {a} nor {b} shall be held responsible for delays occasioned by natural disasters, government restrictions or
epidemics, and all deadlines shall be moved accordingly.

If a flood, tornado or riot destroys the venue, {a} shall be under no obligation to hold the event planned for {date},
and neither side shall have a claim for non-performance.
""",
)
