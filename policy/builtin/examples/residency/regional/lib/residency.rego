# METADATA
# title: Where data may be
# description: A class of data names geographies, a geography names zones. Zones come from
#   enrolment, so a node cannot choose its own. What is not written down is permitted nowhere.
package bailiwick.regional.lib.residency

import rego.v2

# zones permitted for every one of some classes; none for a class nobody knows.
permitted(classes) := intersection({zones(class) | some class in classes}) if count(classes) > 0

zones(class) := {zone |
	some geography in data.residency.classes[class]
	some zone in data.residency.geographies[geography]
}
