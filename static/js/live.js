// Lists and data set pages: every element with data-fresh is kept up to date while it says that something is going on.

import { keepFresh } from "./swap.js";

for (const element of document.querySelectorAll("[data-fresh][id]")) keepFresh(element.id);
