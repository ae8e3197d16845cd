"""Clauses from which one fact is to be read, each beside a distractor of the same kind; each paragraph is one template.

In LAW_QUESTIONS the answer is `law`, the distractors are the other places; in NOTICE_QUESTIONS the answer is `days`.
The distractor stands before the answer in about half of the templates, so that position alone does not decide.
"""

from legal_text import Templates

LAW_QUESTIONS = Templates(
    train="""
This Agreement is made between {a}, a company organized under the laws of {other_law}, and {b}. It shall be governed
by and construed in accordance with the laws of {law}.

This Agreement shall be governed by the laws of {law}. Any dispute shall be finally settled by arbitration seated in
{other_seat}.

{a}, having its principal office in {other_seat}, agrees with {b} that the laws of {law} shall govern this Agreement,
without regard to conflict of laws principles.

The laws of {law} govern this Agreement. {a} represents that it is duly incorporated and in good standing under the
laws of {other_law}.

Notices to {a} shall be sent to its offices in {other_seat}. This Agreement shall be construed and enforced according
to the laws of {law}.

The validity and construction of this Lease shall be controlled by the laws of {law}, although {a} is a resident of
{other_law} and rent is payable there.

Although {b} may perform the Services in {other_seat}, this Agreement and all claims arising from it are governed by
the laws of {law}.

This Note shall be governed by the laws of {law}, and {a} consents to the non-exclusive jurisdiction of the courts of
{other_law}.

The parties submit to the courts sitting in {other_seat}; the substantive law applied by those courts to this
Agreement shall be the law of {law}.

This Agreement, executed by {a} in {other_seat} and by {b} in {third_seat}, shall be interpreted under the laws of
{law}.

This License shall be construed under the laws of {law} and not under the laws of {other_law}, where {a} has its
registered office.

The merger of {a} shall take effect under the corporate statutes of {other_law}, but this Agreement shall in all other
respects be governed by the laws of {law}.

All matters relating to this Guaranty are governed by the laws of {law}. {a} appoints an agent in {other_seat} to
receive service of process.

Goods shall be delivered to the warehouse of {b} in {other_seat}. The sale is subject to the laws of {law}, excluding
the United Nations Convention on the International Sale of Goods.

{a} is a corporation of {other_law} and {b} is a partnership formed in {third_seat}. The parties choose the laws of
{law} to govern this Agreement.

The governing law of this Agreement is that of {law}. Mediation between {a} and {b} shall be held in {other_seat}
before any suit is filed.
""",
    validation="""
{a} maintains its headquarters in {other_seat}. The construction and performance of this contract are subject to the
laws of {law}.

The laws of {law} shall apply to this Agreement. An arbitrator appointed in {other_seat} shall hear any claim between
{a} and {b}.

Title to the Equipment passes to {b} in {other_seat}; the contract itself is governed by the law of {law}.

This Deed shall be read and enforced under the laws of {law}, even though {a} was established under the laws of
{other_law}.

Invoices are to be sent to {a} in {other_seat}. As to interpretation and remedies, the laws of {law} shall control.
""",
    test="""
The law of {law} shall be the proper law of this contract, whereas hearings of the arbitral tribunal shall take place
in {other_seat}.

{a}, which was formed under the laws of {other_law}, and {b} agree that this instrument shall be interpreted and
governed by the laws of {law}.

Payment is due at the bank of {a} in {other_seat}. This Agreement and the rights of the parties shall be governed by
the laws of {law}.

These Terms are governed by the laws of {law}. {b} may nevertheless seek an injunction from any court in {other_seat}.

Both the plant of {a} in {other_seat} and that of {b} in {third_seat} may be used, but the laws of {law} shall govern
this contract.

The laws of {law} shall govern the rights and duties of {a} under this Equipment Lease, regardless of the fact that it
was signed in {other_seat}.

Having considered the laws of {other_law}, where the Premises of {a} are located, the parties agree that the laws of
{law} shall govern this Agreement.

This Agreement is subject to and shall be construed by the laws of {law}. The annual meeting with {a} will be held in
{other_seat}.

Employee will work at the branch of {a} in {other_seat}; the contract of employment is governed by the law of {law}.

Any question of interpretation shall be decided under the laws of {law}, and {a} waives any right to rely on the laws
of {other_law}.
""",
)

NOTICE_QUESTIONS = Templates(
    train="""
Either party may terminate this Agreement upon {days} days' prior written notice. All outstanding invoices of {a}
shall be paid within {other_days} days after termination.

{a} shall pay each invoice within {other_days} days of receipt. {b} may terminate this Agreement by giving {a} {days}
days' written notice.

This Agreement renews for successive terms unless {a} gives written notice of non-renewal at least {days} days before
the term ends. Renewal fees fall due {other_days} days after renewal.

Products found defective within {other_days} days of delivery will be replaced. {a} may discontinue any Product on not
less than {days} days' written notice to {b}.

{a} may increase its prices by giving {b} {days} days' advance written notice; orders placed before then remain valid
for {other_days} days.

The first delivery by {a} is due {other_days} days after signing. Either party may withdraw from the arrangement with
{days} days' notice in writing.

{b} may inspect the records of {a} on {days} days' prior notice. Any underpayment shall be made good within
{other_days} days of the report.

Within {other_days} days after the end of this Agreement, {a} shall return all property of {b}. This Agreement may be
ended by either party on {days} days' notice.

The insurer shall give {a} at least {days} days' notice before cancelling the policy. Claims must be filed within
{other_days} days of the loss.

Rent is late if unpaid for {other_days} days. Tenant may vacate the Premises after giving {a} no fewer than {days}
days' written notice.

Borrower may prepay the loan from {a} in full upon {days} days' prior written notice. Interest is computed in periods
of {other_days} days.

The trial period lasts {other_days} days. Afterwards {a} may resign from the program by notifying {b} in writing at
least {days} days in advance.

The Consultant or {a} may end this engagement on written notice of {days} days. Expense reports must reach {a} within
{other_days} days.

{a} has {other_days} days to accept or reject each deliverable. {b} may replace key personnel only after {days} days'
notice to {a}.

{b} shall notify {a} in writing {days} days before any change in its ownership. The escrow of {amount} shall be
released {other_days} days after closing.

The option of {a} stays open for {other_days} days. Once exercised, the lease may be cancelled by {a} on {days} days'
written notice to {b}.
""",
    validation="""
{a} may bring this Agreement to an end by {days} days' notice in writing, and {b} shall refund prepaid fees within
{other_days} days.

Samples must be approved within {other_days} days of receipt. Either {a} or {b} may cancel future orders by giving
{days} days' notice.

Unless {b} is notified at least {days} days before expiry, the subscription continues. Support tickets are kept by {a}
for {other_days} days.

The deposit is repaid {other_days} days after departure. The occupant shall give {a} {days} days' prior notice of
departure.

{a} may suspend the Services for maintenance upon {days} days' notice; credits must be used within {other_days} days.
""",
    test="""
The term continues until {a} or {b} cancels it by giving {days} days' written notice. Final accounts shall be settled
within {other_days} days thereafter.

Goods not collected within {other_days} days may be resold by {a}. This contract may be terminated on not less than
{days} days' notice to the other party.

{a} must inform {b} in writing {days} days ahead of any closure of its plant. Stock already ordered shall be shipped
within {other_days} days.

A partner may retire from {a} upon {days} days' notice to the other partners. The value of the share shall be paid
within {other_days} days of retirement.

The bid of {a} remains firm for {other_days} days. If it is accepted, either party may terminate the contract on
giving {days} days' written notice.

No rise in the royalty is effective until {days} days after written notice to {a}. Royalty statements are issued by
{b} every {other_days} days.

The price is payable by {b} in full {other_days} days from shipment. {a} may withdraw the distribution right on {days}
days' prior written notice.

{b} may relocate the equipment of {a} after {days} days' notice in writing. Installation shall be finished within
{other_days} days of relocation.

Employee earns a bonus after {other_days} days of service. Employee or {a} may end the employment by notice in writing
of at least {days} days.
""",
)
