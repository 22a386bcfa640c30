"""What spreadsheets leave in a cell whose formula failed, in the languages of their users. No torch."""

import re

# Excel and Google Sheets in English; then what Excel shows in other languages, where it differs.
SPELLINGS = """
    #NULL! #DIV/0! #VALUE! #REF! #NAME? #NUM! #N/A #GETTING_DATA #SPILL! #CALC! #FIELD! #BLOCKED!
    #UNKNOWN! #CONNECT! #BUSY! #EXTERNAL! #PYTHON! #TIMEOUT! #ERROR! #MACRO? #ADDIN?
    #WERT! #BEZUG! #ZAHL! #NV #ÜBERLAUF! #KALK! #FELD! #BLOCKIERT! #UNBEKANNT! #VERBINDEN!
    #BESCHÄFTIGT! #DATEN_ABRUFEN #DATEN_WERDEN_ABGERUFEN
    #NUL! #VALEUR! #NOM? #NOMBRE! #PROPAGATION! #EPARS! #ÉPARS! #CALCUL! #CHAMP! #BLOQUE! #BLOQUÉ!
    #INCONNU! #CONNEXION! #OCCUPE! #OCCUPÉ! #CHARGEMENT_DONNEES #OBTENTION_DONNEES
    #¡NULO! #¡DIV/0! #¡VALOR! #¡REF! #¿NOMBRE? #¡NUM! #N/D #¡DESBORDAMIENTO! #¡CALC! #¡CAMPO!
    #¡BLOQUEADO! #¡DESCONOCIDO! #¡CONECTAR! #¡OCUPADO! #OBTENIENDO_DATOS #¡ERROR! #¡SPILL!
    #NULLO! #VALORE! #RIF! #NOME? #ESPANSIONE! #CAMPO! #BLOCCATO! #SCONOSCIUTO! #CONNETTI!
    #NULO! #VALOR! #NÚM! #NUM! #DESPEJAR! #DESPEJO! #CÁLC! #BLOQUEADO! #DESCONHECIDO! #CONECTAR!
    #LEEG! #DEEL/0! #WAARDE! #VERW! #NAAM? #GETAL! #N/B #OVERLOOP! #BEREKENEN! #VELD! #GEBLOKKEERD!
    #ZERO! #DZIEL/0! #ARG! #ADR! #NAZWA? #LICZBA! #N/D! #ROZLANIE! #OBL! #POLE!
    #SKÄRNING! #DIVISION/0! #VÄRDEFEL! #REFERENS! #REFERENSFEL! #NAMN? #OGILTIGT! #SAKNAS! #SPILL!
    #VÆRDI! #REFERENCE! #NAVN? #I/T #IKKE.TILGÆNGELIG #OVERLØB!
    #VERDI! #REFERANSE! #NULL! #OVERFLYT!
    #TYHJÄ! #JAKO/0! #ARVO! #VIITTAUS! #NIMI? #LUKU! #PUUTTUU! #PUUTTUU #TÄYTTÖ!
    #ПУСТО! #ДЕЛ/0! #ЗНАЧ! #ССЫЛКА! #ИМЯ? #ЧИСЛО! #Н/Д #ПЕРЕНОС! #ВЫЧИСЛ! #ПОЛЕ!
    #HODNOTA! #DĚLENÍ_NULOU! #NÁZEV? #ČÍSLO! #NENÍ_K_DISPOZICI #ODKAZ! #PŘESAH!
    #NEDOSTUPNÝ #HODNOTA! #DELENIENULOU! #ODKAZ! #NÁZOV? #ČÍSLO!
    #BOŞ! #SAYI/0! #DEĞER! #BAŞV! #AD? #SAYI! #YOK #TAŞMA!
    #NULLA! #ZÉRÓOSZTÓ! #ÉRTÉK! #HIV! #NÉV? #SZÁM! #HIÁNYZIK #KIBONTÁS!
    #ΚΕΝΟ! #ΔΙΑΙΡ/0! #ΤΙΜΗ! #ΑΝΑΦ! #ΟΝΟΜΑ? #ΑΡΙΘ! #Δ/Υ
"""
ERROR_VALUES = frozenset(SPELLINGS.split())
LOADING = "Loading..."  # Google Sheets, of a formula that was not ready
# LibreOffice writes a code
LIBRE_OFFICE = re.compile(r"(Err|Fehler|Erreur|Error|Errore|Erro|Fout):\s?\d{3}", re.IGNORECASE)


class ErrorValue(str):
    """The text of a cell that a workbook itself marks as an error, in whatever language."""


def is_error(text: str) -> bool:
    """Return whether a cleaned cell holds nothing but an error value of a spreadsheet."""
    if not text.startswith(("#", "E", "e", "F", "f", "L")):
        return False
    if text == LOADING:
        return True
    return text.upper() in ERROR_VALUES or LIBRE_OFFICE.fullmatch(text) is not None
