"""Clauses on the life of a contract: its law, end, transfer, and competition; each paragraph is one template."""

from legal_text import Templates

GOVERNING_LAW = Templates(
    train="""
This Agreement shall be governed by and construed in accordance with the laws of {law}, without regard to its conflict
of laws principles.

The validity, interpretation and performance of this Agreement between {a} and {b} shall be controlled by the laws of
{law}.

This Agreement and any dispute arising out of it are governed by the laws of {law}, excluding the United Nations
Convention on Contracts for the International Sale of Goods.

All questions concerning the construction of this Agreement shall be decided under the substantive laws of {law}, as
applied to contracts made and to be performed there.

The laws of {law} shall apply to this Agreement, and {a} and {b} submit to the jurisdiction of the courts sitting in
{seat}.

This Note has been delivered in {seat} and shall be interpreted, and the rights of {a} determined, under the laws of
{law}.

The rights and obligations of {a} under this Agreement shall be construed under the internal laws of {law}, and no
choice of law rule shall lead to the application of other laws.

The parties choose the laws of {law} as the law applicable to this Agreement and to any non-contractual obligation
connected with it.

This Guaranty of {date} shall in all respects be governed by the laws of {law}, regardless of where {a} is organized.

This Lease is made under, and shall be construed according to, the laws of {law}, in which the Premises are situated.

Any controversy between {a} and {b} relating to this License shall be resolved by applying the laws of {law}, without
giving effect to any conflicts rule.

The governing law of this Agreement is the law of {law}, and each party waives any objection based on inconvenient
forum.
""",
    validation="""
The construction and enforcement of this Agreement by {a} are subject to the laws of {law}, other than its rules on
conflicts of law.

This instrument, entered into by {a} and {b} on {date}, shall be read and enforced under the laws of {law}.

The parties agree that the law of {law} governs their relationship under this Agreement, wherever performance by {a}
takes place.

As to all matters of validity and interpretation, the laws of {law} shall control, and suit may be brought in {seat}.
""",
    test="""
For all purposes, including the determination of the rights of {a}, this Agreement shall be subject to and interpreted
under the laws of {law}.

The laws of {law} apply exclusively to the contractual relationship between {a} and {b}; the conflict of laws rules of
any country are excluded.

This Deed and any question about its existence, validity or effect shall be resolved in accordance with the law of
{law}.

Irrespective of the place of signature, {a} and {b} agree that the law of {law} shall be the proper law of this
contract.

This Agreement is a contract made under the laws of {law} and shall for all purposes be construed in accordance with
those laws.

The interpretation of these Terms and any claim between {a} and {b} shall be governed by the law in force in {law}.
""",
)

TERMINATION_FOR_CONVENIENCE = Templates(
    train="""
Either party may terminate this Agreement at any time, without cause, by giving the other party {days} days' prior
written notice.

{a} may terminate this Agreement for convenience, in whole or in part, upon {days} days' written notice to {b}.

This Agreement may be ended by {a} for any reason or no reason by delivering written notice to {b} not less than
{days} days before the effective date of termination.

{b} shall have the right to cancel the Services at its sole discretion and without penalty on {days} days' notice,
whether or not {a} is in default.

Notwithstanding the stated term, {a} may discontinue the engagement of {b} without cause at any time after {date} by
written notice.

If {a} terminates for its convenience, it shall pay {b} for all work properly performed up to the date of termination
and for reasonable costs of demobilization.

The Consultant or {a} may terminate this engagement at will, with or without reason, upon written notice of {days}
days.

{a} reserves the right to terminate any Statement of Work without cause; upon such termination {b} shall stop work and
deliver all work in progress.

At any time after the first {months} months of the term, {b} may elect to terminate this Agreement without cause by
paying an early termination fee of {amount}.

Either {a} or {b} may withdraw from this Agreement without stating any reason by giving notice of at least {days}
days.

No default is required for {a} to exercise its right of termination under this Section; it need only give {b} written
notice of {days} days.

Tenant may, at its option and without cause, terminate this Lease effective at any time after {date} upon {days} days'
prior notice to {a}.
""",
    validation="""
{a} is entitled to bring this Agreement to an end whenever it sees fit, and without giving grounds, on {days} days'
written notice to {b}.

Termination without cause by {a} takes effect {days} days after {b} receives notice, and {b} shall be paid for
accepted deliverables.

Without showing breach or other cause, either party may terminate the arrangement begun on {date} by {days} days'
notice in writing.

{b} may at its convenience terminate any purchase order placed with {a}, paying only for goods already shipped.
""",
    test="""
The appointment of {a} may be terminated by {b} at its absolute discretion, and without any fault of {a}, on not less
than {days} days' notice.

Regardless of whether a breach has occurred, {a} may cancel this contract simply by notifying {b} in writing {days}
days ahead.

Where {b} terminates for convenience, {a} shall be entitled to payment for services rendered to that date but not to
anticipated profit on work not performed.

{a} and {b} may each terminate this Agreement, with or without cause, as of the end of any calendar month by {days}
days' written notice.

Purchaser may, for its own convenience and without assigning any reason, terminate the undelivered balance of an order
from {a} at any time.

This Agreement is terminable at will by {a}; no grounds need be stated and no compensation shall be due to {b} beyond
fees earned through {date}.
""",
)

ASSIGNMENT = Templates(
    train="""
Neither party may assign this Agreement or any of its rights or obligations without the prior written consent of the
other, which shall not be unreasonably withheld by {a} or {b}.

{a} may assign this Agreement without consent to an affiliate or to the purchaser of all or substantially all of its
assets.

Any attempted assignment or transfer of this Agreement by {b} in violation of this Section shall be null and void.

This Agreement shall be binding upon and inure to the benefit of the successors and permitted assigns of {a} and {b}.

{b} shall not delegate or subcontract its duties or transfer its interest under this Agreement without the approval of
{a}.

A merger, a consolidation or a sale of more than half of the voting stock of {a} shall be deemed an assignment that
requires the consent of {b}.

Tenant shall not assign this Lease or sublet the Premises without first obtaining the written consent of {a}.

The rights granted to {a} under this License are personal and may not be assigned, sublicensed or otherwise
transferred to any third party.

Upon any permitted assignment by {a}, the assignee shall assume in writing all obligations of {a}, and {a} shall be
released from liabilities arising after {date}.

{b} may collaterally assign its right to receive payments under this Agreement to its lenders upon {days} days' notice
to {a}.

Lender may sell, assign or grant participations in all or part of the Loan of {amount} without the consent of {a}.

This Agreement is not assignable by {a}, by operation of law or otherwise, except to a successor to its entire
business that agrees to be bound.
""",
    validation="""
{a} shall not transfer this Agreement, or any benefit under it, to another person unless {b} has agreed in writing in
advance.

Consent of {a} to one assignment by {b} shall not be taken as consent to any later assignment.

{b} may transfer its rights and duties under the agreement of {date} to any company that acquires its business, on
notice to {a}.

The contract is personal to {a}, who may not cede, pledge or assign it, and every purported assignment is of no
effect.
""",
    test="""
The rights and duties of {a} hereunder may be transferred only with the written approval of {b}; a transfer made
otherwise has no legal effect.

Either party may, without consent, assign its entire interest in this Agreement to a successor by merger, provided
that the successor accepts the obligations owed to {b}.

{b} may not novate, charge or otherwise dispose of this contract or any part of it except as {a} permits in writing.

No assignment by {a} shall relieve it of its obligations unless {b} expressly agrees to look to the assignee alone.

The provisions of this Agreement bind and benefit {a}, {b} and their respective heirs, legal representatives,
successors and permitted assigns.

Contractor may assign to others the sums payable by {a} under this contract, but the duty to perform the work may not
be assigned.
""",
)

NON_COMPETE = Templates(
    train="""
For {years} years after the Closing, Seller shall not directly or indirectly engage in any business that competes with
the business of {a} within {miles} miles of any of its locations.

During employment and for {months} months thereafter, Employee shall not work for, own or consult with any competitor
of {a}.

{a} agrees that during the term it will not manufacture, market or sell any product that competes with the Products of
{b} in the Territory.

Executive shall not, for {months} months following termination, be employed by, invest in or otherwise take part in
any enterprise that competes with {a}.

The restriction on competition shall not prevent Seller from owning up to {small_percent} of the shares of a publicly
traded company that competes with {a}.

The parties agree that the duration and area of this covenant not to compete are reasonable and necessary to protect
the goodwill of {a}.

Franchisee shall not, within {miles} miles of the outlet, operate or hold an interest in any business similar to that
of {a} for {years} years after expiration.

While this Agreement is in force, {a} shall refrain from acting as distributor or agent for any goods in competition
with those supplied by {b}.

In consideration of the payment of {amount}, {a} covenants not to compete with {b} anywhere in the Territory until
{date}.

If a court finds the non-competition covenant too broad in time or area, it shall be enforced against Executive, for
the benefit of {a}, to the greatest extent allowed by law.

Consultant shall not accept an engagement from any direct competitor of {a} during the engagement or for {months}
months after it ends.

Neither the founders nor their affiliates shall establish or finance a venture that competes with the business sold to
{a} on {date} for a period of {years} years.
""",
    validation="""
For {months} months after leaving {a}, Manager shall not hold any position with a firm that offers products competing
with those of {a}.

{a} shall not open or acquire a rival establishment within {miles} miles of the premises sold to {b}.

Distributor undertakes not to deal in products that compete with those of {a} during the term and for {months} months
afterwards.

The covenant of the vendors not to carry on a business in competition with {a} shall bind them until {date}.
""",
    test="""
Employee undertakes, for {months} months from the end of employment, not to join or advise any business that is in
competition with {a}.

Vendor shall not carry on, or be concerned in, a trade that rivals the business purchased by {a} within a radius of
{miles} miles for {years} years.

As long as {a} remains the exclusive dealer of {b}, it shall not promote or sell competing goods from any other
source.

The sales director agrees that, upon departure from {a}, he or she will not work for any rival within {miles} miles of
its offices for {months} months.

The seller's promise not to compete with {a} is given in return for {amount} of the purchase price and is an essential
term of the sale.

Each partner shall abstain, until {years} years after withdrawal, from starting or investing in any undertaking that
competes with {a}.
""",
)
